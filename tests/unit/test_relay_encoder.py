"""What the encoders make, decoded again."""

from __future__ import annotations

import functools
from fractions import Fraction

import av
import numpy as np
import pytest
from av import CodecContext, VideoFrame

from butai.relay.encoder import SAMPLES, AudioEncoder, VideoEncoder
from butai.relay.messages import Preset
from butai.relay.nal import configuration_record, length_prefixed, units
from butai.relay.packets import Packet, VideoFormat
from butai.relay.picture import as_frame
from tests.relay_stage import luma
from tests.studio_host import TestCard, read_stamp

SMALL = Preset(width=320, height=180, fps=30, video_kbps=500)


@functools.cache
def card(number: int, preset: Preset = SMALL) -> VideoFrame:
    """A drawn picture. Encoding sets nothing in it but its number and kind, anew each time."""
    drawn = TestCard(preset.width, preset.height).draw(1000 + number / preset.fps, number)
    return as_frame(np.frombuffer(drawn, np.uint8).reshape(preset.height * 3 // 2, preset.width))


def encode(preset: Preset, count: int, forced: tuple[int, ...] = ()) -> tuple[VideoFormat, list[Packet]]:
    encoder = VideoEncoder(preset)
    packets: list[Packet] = []
    for number in range(count):
        packets += encoder.encode(card(number, preset), number, keyframe=number in forced)
    return encoder.format, packets


def decode(video: VideoFormat, packets: list[Packet]) -> list[VideoFrame]:
    decoder = CodecContext.create("h264", "r")
    decoder.extradata = video.avcc
    frames: list[VideoFrame] = []
    for packet in packets:
        compressed = av.Packet(packet.data)
        compressed.pts, compressed.dts, compressed.time_base = packet.pts, packet.dts, Fraction(1, 1000)
        frames += decoder.decode(compressed)
    return frames + decoder.decode(None)


def test_every_picture_comes_out_at_once_and_can_be_read() -> None:
    encoder = VideoEncoder(SMALL)
    packets: list[Packet] = []
    for number in range(90):
        made = encoder.encode(card(number), number)
        assert len(made) == 1, "the encoder holds pictures back"
        packets += made
    frames = decode(encoder.format, packets)
    assert [read_stamp(luma(frame))[1] for frame in frames] == list(range(90))


def test_a_keyframe_exactly_every_two_seconds() -> None:
    for fps in (30, 60):
        _, packets = encode(Preset(width=320, height=180, fps=fps, video_kbps=500), fps * 7)
        assert [packet.dts for packet in packets if packet.keyframe] == [0, 2000, 4000, 6000]


def test_a_cut_makes_no_keyframe() -> None:
    encoder = VideoEncoder(SMALL)
    noise = np.random.default_rng(1)
    keys = []
    for number in range(60):
        picture = noise.integers(16, 235, (270, 320)).astype(np.uint8) if number % 10 == 0 else None
        frame = as_frame(picture) if picture is not None else card(number)
        keys += [packet.keyframe for packet in encoder.encode(frame, number)]
    assert keys == [True] + [False] * 59


def test_a_forced_keyframe_comes_at_once_and_is_decodable_alone() -> None:
    video, packets = encode(SMALL, 120, forced=(37,))
    assert [packet.dts for packet in packets if packet.keyframe] == [0, 1233, 3233]
    frames = decode(video, packets[37:])
    assert read_stamp(luma(frames[0]))[1] == 37


def test_time_stamps_rise_on_the_grid_and_gaps_stay_gaps() -> None:
    encoder = VideoEncoder(SMALL)
    slots = [*range(10), *range(100, 110)]
    packets = [packet for slot in slots for packet in encoder.encode(card(slot), slot)]
    assert [packet.dts for packet in packets] == [round(slot * 1000 / 30) for slot in slots]
    assert all(packet.pts == packet.dts for packet in packets)


def test_the_rate_is_constant_also_for_a_still_picture() -> None:
    encoder = VideoEncoder(SMALL)
    still = card(1)
    packets = [packet for slot in range(300) for packet in encoder.encode(still, slot)]
    for second in range(2, 10):
        kbit = sum(len(packet.data) for packet in packets[second * 30 : second * 30 + 30]) * 8 / 1000
        assert 350 <= kbit <= 650, f"second {second}: {kbit}"
    assert 475 <= sum(len(packet.data) for packet in packets[30:]) * 8 / 1000 / 9 <= 525


def test_the_rate_is_constant_for_noise() -> None:
    encoder = VideoEncoder(SMALL)
    noise = np.random.default_rng(1)
    pictures = [as_frame(noise.integers(16, 235, (270, 320)).astype(np.uint8)) for _ in range(10)]
    packets = [packet for slot in range(300) for packet in encoder.encode(pictures[slot % 10], slot)]
    assert sum(len(packet.data) for packet in packets[30:]) * 8 / 1000 / 9 <= 550


def test_packets_are_length_prefixed_and_hold_no_parameter_sets() -> None:
    video, packets = encode(SMALL, 70)
    for packet in packets:
        kinds, rest = [], packet.data
        while rest:
            length = int.from_bytes(rest[:4], "big")
            assert 0 < length <= len(rest) - 4
            kinds.append(rest[4] & 0x1F)
            rest = rest[4 + length :]
        assert not {7, 8, 9} & set(kinds)
        assert (5 in kinds) == packet.keyframe
    record = video.avcc
    assert record[0] == 1 and record[1] == 100 and record[4] == 0xFF and record[5] == 0xE1


def test_the_stream_says_its_colours_and_rate() -> None:
    video, packets = encode(SMALL, 3)
    frame = decode(video, packets)[0]
    assert (int(frame.colorspace), int(frame.color_range)) == (1, 1)


@pytest.mark.parametrize("rate", [44100, 48000])
def test_sound_comes_back_in_time(rate: int) -> None:
    encoder = AudioEncoder(rate, 128)
    wave = (np.sin(np.arange(SAMPLES * 100) * 2 * np.pi * 440 / rate) * 10000).astype(np.int16)
    begin = SAMPLES * 40
    wave[:begin] = 0
    samples = np.stack([wave, wave], axis=1)
    packets = [
        packet for at in range(0, len(samples), SAMPLES) for packet in encoder.encode(samples[at : at + SAMPLES], at)
    ]
    assert [packet.dts for packet in packets] == [round(n * SAMPLES * 1000 / rate) for n in range(98)]
    decoder = CodecContext.create("aac", "r")
    decoder.extradata = encoder.format.asc
    heard = np.concatenate(
        [frame.to_ndarray() for packet in packets for frame in decoder.decode(av.Packet(packet.data))], 1
    )
    assert heard.shape[0] == 2
    # The first decoded sample belongs to the first packet's stamp.
    first = int(np.argmax(np.abs(heard[0]) > 0.05))
    assert abs(first - begin) < rate * 0.01
    kbps = sum(len(packet.data) for packet in packets[45:]) * 8 / (53 * SAMPLES / rate) / 1000
    assert kbps < 160


def test_what_sound_was_held_before_a_pause_does_not_come_out_after_it() -> None:
    encoder = AudioEncoder(48000, 128)
    silence = np.zeros((SAMPLES, 2), np.int16)
    for number in range(4):
        encoder.encode(silence, number * SAMPLES)
    encoder.resume()
    packets = [packet for number in range(100, 104) for packet in encoder.encode(silence, number * SAMPLES)]
    assert [packet.dts for packet in packets] == [round(n * SAMPLES / 48) for n in range(100, 102)]


def test_units_of_both_start_codes_and_padding() -> None:
    data = b"\0\0\0\1\x67ab\0\0\1\x68c\0\0\0\0\1\x65de\0"
    assert list(units(data)) == [b"\x67ab", b"\x68c", b"\x65de"]
    assert length_prefixed(data) == b"\0\0\0\3\x65de"
    assert list(units(b"")) == [] == list(units(b"abc"))


def test_no_parameter_sets_no_record() -> None:
    with pytest.raises(ValueError, match="no parameter sets"):
        configuration_record(b"\0\0\0\1\x65de")
