"""Heads of sounds and pictures, and what a child decodes, held against ffmpeg and pillow."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from butai.assets.contents import decode_tasks
from butai.assets.contents.readers.pictures import picture_facts
from butai.assets.contents.readers.sound import HEAD, TAIL, sound_facts
from butai.assets.kinds import FORMATS, HEAD_BYTES, AssetType
from butai.assets.models import Asset
from butai.assets.signatures import MOST_TAGS, SOUND_MIMES, sound_start
from butai.errors import SignatureMismatch, UploadRefused
from tests import files
from tests.examples import examples

LIMIT = HEAD + TAIL


class Bytes:
    """A file in memory that counts what is read of it."""

    def __init__(self, body: bytes) -> None:
        self.body, self.read = body, 0

    async def __call__(self, start: int, length: int) -> bytes:
        found = self.body[start : start + length]
        self.read += len(found)
        return found


def ffmpeg(*arguments: str) -> str:
    ended = subprocess.run(
        ["ffmpeg", "-y", "-nostats", *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return ended.stderr


def radiance(width: int = 64, height: int = 32) -> bytes:
    """A sky with a sun a thousand times brighter than the rest."""
    rows = bytearray()
    for y in range(height):
        for x in range(width):
            rows += bytes([128, 100, 60, 138 if (x - 40) ** 2 + (y - 8) ** 2 < 9 else 128])
    return b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (height, width) + bytes(rows)


@pytest.fixture(scope="module")
def sine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    source = ["-f", "lavfi", "-i", "sine=frequency=1000:duration=5", "-af", "volume=-6dB", "-ac", "2"]
    for extension in ("wav", "mp3", "ogg", "flac", "opus", "m4a"):
        ffmpeg(*source, "-metadata", "title=舞台", "-metadata", "artist=Aoi", str(folder / f"sine.{extension}"))
    return folder


@pytest.mark.parametrize("extension", ["wav", "mp3", "ogg", "flac", "opus", "m4a"])
async def test_a_sound_s_head_and_its_whole(sine: Path, extension: str) -> None:
    path = sine / f"sine.{extension}"
    read = Bytes(path.read_bytes())
    facts = await sound_facts(read, len(read.body), extension)
    assert read.read <= LIMIT
    assert facts["duration"] == pytest.approx(5, abs=0.15)
    assert (facts["title"], facts["artist"]) == ("舞台", "Aoi")
    assert facts["channels"] == 2
    whole, problem = await decode_tasks.decode_file("sound", str(path))
    assert problem is None
    assert whole["duration"] == pytest.approx(5, abs=0.15)
    told = ffmpeg("-i", str(path), "-af", "ebur128", "-f", "null", "-")
    right = float(re.findall(r"I:\s+(-?[\d.]+) LUFS", told)[-1])
    assert whole["loudness_lufs"] == pytest.approx(right, abs=0.5)
    # 50 stretches of 100 ms, all of them as loud as a sine.
    assert 45 <= len(whole["peaks"]) <= 55
    assert min(whole["peaks"][1:-2]) > 0.8 * max(whole["peaks"]) > 0


async def test_a_waveform_rises_with_its_sound(tmp_path: Path) -> None:
    path = tmp_path / "ramp.wav"
    ffmpeg("-f", "lavfi", "-i", "sine=frequency=440:duration=100", "-af", "afade=t=in:d=100:curve=tri", str(path))
    whole, _ = await decode_tasks.decode_file("sound", str(path))
    assert len(whole["peaks"]) == 800
    eighths = [max(whole["peaks"][start : start + 100]) for start in range(0, 800, 100)]
    assert eighths == sorted(eighths)
    assert eighths[0] < eighths[-1] / 5


async def test_skies_and_pictures(tmp_path: Path) -> None:
    body = radiance()
    assert await picture_facts(Bytes(body), len(body), "hdr") == {"width": 64, "height": 32}
    (tmp_path / "sky.hdr").write_bytes(body)
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc=size=640x320",
        "-frames:v",
        "1",
        "-pix_fmt",
        "gbrpf32le",
        str(tmp_path / "sky.exr"),
    )
    exr = (tmp_path / "sky.exr").read_bytes()
    facts = await picture_facts(Bytes(exr), len(exr), "exr")
    assert (facts["width"], facts["height"], sorted(facts["channels"])) == (640, 320, ["B", "G", "R"])
    png = files.png(7, 5)
    assert await picture_facts(Bytes(png), len(png), "png") == {"width": 7, "height": 5}
    for name, size in (("sky.hdr", (64, 32)), ("sky.exr", (512, 256))):
        found, problem = await decode_tasks.decode_file("picture", str(tmp_path / name))
        assert problem is None
        preview = Image.open(io.BytesIO(base64.b64decode(found["jpeg"])))
        assert preview.size == size
        low, high = preview.convert("L").getextrema()
        # Neither black nor white: its light was brought into range.
        assert isinstance(low, int)
        assert isinstance(high, int)
        assert high - low > 60
    sun = Image.open(
        io.BytesIO(base64.b64decode((await decode_tasks.decode_file("picture", str(tmp_path / "sky.hdr")))[0]["jpeg"]))
    )
    grey = sun.convert("L")
    assert grey.getpixel((40, 8)) > grey.getpixel((10, 20)) + 40  # pyright: ignore[reportOperatorIssue]


@pytest.mark.parametrize(
    "head",
    [
        b"#?RGBE\n",
        b"#?RADIANCE\r\n",
        b"#?RGBE\r\n# Made with a tool\r\nEXPOSURE=1.0\r\n",
        b"#?AUTOPANO 1\n",
        b"#?RADIANCE\nGAMMA=1\n",
    ],
)
async def test_a_sky_of_any_program_has_a_preview(tmp_path: Path, head: bytes) -> None:
    end = b"\r\n" if b"\r" in head else b"\n"
    pixels = radiance().partition(b"+X 64\n")[2]
    body = head + b"FORMAT=32-bit_rle_rgbe" + end * 2 + b"-Y 32 +X 64" + end + pixels
    FORMATS[AssetType.HDR]["hdr"].check(body[:HEAD_BYTES], len(body))
    assert await picture_facts(Bytes(body), len(body), "hdr") == {"width": 64, "height": 32}
    (tmp_path / "sky.hdr").write_bytes(body)
    (tmp_path / "plain.hdr").write_bytes(radiance())
    found = await decode_tasks.decode_file("picture", str(tmp_path / "sky.hdr"))
    assert found == await decode_tasks.decode_file("picture", str(tmp_path / "plain.hdr"))
    assert found[1] is None


@pytest.mark.slow
async def test_what_asks_for_too_much_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A small file that says it is gigantic.
    bomb = tmp_path / "bomb.hdr"
    bomb.write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 60000 +X 60000\n" + bytes(4000))
    assert await decode_tasks.decode_file("picture", str(bomb)) == ({}, "decode_failed")
    for kind, body in (("sound", b"ID3" + bytes(5000)), ("picture", b"\x76\x2f\x31\x01" + bytes(500))):
        (tmp_path / "broken").write_bytes(body)
        assert (await decode_tasks.decode_file(kind, str(tmp_path / "broken")))[1] == "decode_failed"
    ffmpeg("-f", "lavfi", "-i", "sine=duration=600", "-ac", "2", str(tmp_path / "long.flac"))
    monkeypatch.setattr(decode_tasks, "SECONDS", 0.2)
    began = asyncio.get_running_loop().time()
    assert (await decode_tasks.decode_file("sound", str(tmp_path / "long.flac")))[1] == "decode_too_long"
    assert asyncio.get_running_loop().time() - began < 10


def test_the_child_s_memory_is_bounded() -> None:
    code = (
        "import resource, sys; sys.argv = ['x', 'sound', '/nonexistent']\n"
        "from butai.assets.contents.readers import decode_child as child\n"
        "child.sound = lambda path: bytearray(3 * 1024**3) and {}\n"
        "child.main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "MemoryError" in ended.stderr


SEEDS: dict[str, bytes] = {
    "mp3": b"ID3\x04\x00\x00\x00\x00\x00\x00" + b"\xff\xfb\x90\x64" * 40,
    "ogg": b"OggS\x00\x02" + bytes(22) + b"\x01\x1e\x01vorbis" + bytes(22),
    "wav": b"RIFF\x24\x00\x00\x00WAVEfmt "
    + struct.pack("<IHHIIHH", 16, 1, 2, 48000, 192000, 4, 16)
    + b"data\x00\x00\x00\x00",
    "flac": b"fLaC\x00\x00\x00\x22" + bytes(34),
    "m4a": b"\x00\x00\x00\x18ftypM4A \x00\x00\x00\x00M4A mp42\x00\x00\x00\x08moov",
    "hdr": radiance(4, 4),
    "exr": b"\x76\x2f\x31\x01\x02\x00\x00\x00dataWindow\x00box2i\x00\x10\x00\x00\x00"
    + struct.pack("<iiii", 0, 0, 9, 9)
    + b"\x00",
    "png": files.png(),
    "jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(9) + b"\xff\xc0\x00\x11\x08\x00\x05\x00\x07\x03" + bytes(9),
    "webp": b"RIFF\x20\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00" + bytes(14),
}
TRIED: dict[str, int] = {}
HEADS = examples(ci=200, deep=6000, deadline=None)


@HEADS
@given(
    kind=st.sampled_from(sorted(SEEDS)),
    seed=st.integers(0, 2**32),
    size=st.integers(0, 2**40),
    more=st.binary(max_size=200),
)
def test_no_head_is_a_crash(kind: str, seed: int, size: int, more: bytes) -> None:
    chance = random.Random(seed)
    body = bytearray(SEEDS[kind])
    for _ in range(chance.randrange(8)):
        where = chance.randrange(len(body))
        body[where] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    body = body[: chance.randrange(len(body)) if chance.random() < 0.3 else len(body)] + more
    read = Bytes(bytes(body))
    facts: Any = sound_facts if kind in ("mp3", "ogg", "wav", "flac", "m4a") else picture_facts
    try:
        found = asyncio.run(facts(read, size if chance.random() < 0.3 else len(body), kind))
        assert "\\u0000" not in json.dumps(found, allow_nan=False)
    except UploadRefused:
        pass
    assert read.read <= LIMIT
    TRIED[kind] = TRIED.get(kind, 0) + 1


def test_all_kinds_were_tried() -> None:
    assert min(TRIED.values()) > HEADS.max_examples / 120
    assert len(TRIED) == len(SEEDS)


async def test_a_playlist_is_not_followed(tmp_path: Path) -> None:
    good = tmp_path / "good.wav"
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", str(good))
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x.wav"
    for name, text in (
        ("list.mp3", f"ffconcat version 1.0\nfile {good.name}\n"),
        ("list.aac", f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n"),
        ("list.m4a", f"ffconcat version 1.0\nfile {url}\n"),
    ):
        (tmp_path / name).write_text(text)
        assert await decode_tasks.decode_file("sound", str(tmp_path / name)) == ({}, "decode_failed")
    server.close()
    assert asked == []


def id3(size: int) -> bytes:
    """A tag of this many bytes, which holds a title."""
    title = b"TIT2" + struct.pack(">IH", 4, 0) + b"\x03Aoi"
    body = title.ljust(size, b"\0")
    return b"ID3\x03\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + body


def ape(size: int) -> bytes:
    return b"APETAGEX" + struct.pack("<IIII", 2000, size, 0, 0xA0000000) + bytes(8 + size)


def riff(form: bytes, *chunks: tuple[bytes, bytes], size: int | None = None) -> bytes:
    body = b"".join(name + struct.pack("<I", len(held)) + held for name, held in chunks)
    return form + struct.pack("<I", len(body) + 4 if size is None else size) + b"WAVE" + body


def rf64(wav: bytes) -> bytes:
    """The WAV as an RF64 whose sizes are in its own chunk."""
    data = wav[wav.index(b"data") + 8 :]
    held = struct.pack("<QQQI", 0, len(data), 0, 0)
    head = b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", len(held)) + held
    return head + wav[12 : wav.index(b"data")] + b"data\xff\xff\xff\xff" + data


def crc(adts: bytes) -> bytes:
    """The frames with room for a CRC, whose bit says that it is there."""
    made, at = bytearray(), 0
    while at < len(adts):
        head = bytearray(adts[at : at + 7])
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        longer = length + 2
        head[1] &= 0xFE
        head[3] = head[3] & 0xFC | longer >> 11
        head[4] = longer >> 3 & 0xFF
        head[5] = (longer & 7) << 5 | head[5] & 0x1F
        made += head + b"\0\0" + adts[at + 7 : at + length]
        at += length
    return bytes(made)


def brought(folder: Path) -> dict[str, tuple[bytes, str, str]]:
    """Sounds of five seconds as tools write them, each with the extension of its name and the container inside."""
    sound = {one: (folder / f"sine.{one}").read_bytes() for one in ("wav", "mp3", "flac", "ogg", "m4a")}
    ffmpeg("-i", str(folder / "sine.wav"), "-ar", "44100", "-c:a", "aac", "-f", "adts", str(folder / "sine.aac"))
    ffmpeg("-i", str(folder / "sine.wav"), "-id3v2_version", "0", "-write_xing", "0", str(folder / "plain.mp3"))
    ffmpeg("-i", str(folder / "sine.mp3"), "-c", "copy", "-f", "wav", str(folder / "mp3.wav"))
    ffmpeg("-i", str(folder / "sine.wav"), "-map_metadata", "-1", "-fflags", "+bitexact", str(folder / "bare.wav"))
    adts, plain = (folder / "sine.aac").read_bytes(), (folder / "plain.mp3").read_bytes()
    wav = sound["wav"]
    piped = wav[:4] + b"\xff\xff\xff\xff" + wav[8:]
    data = piped.index(b"data")
    return {
        "FLAC behind ID3": (id3(500) + sound["flac"], "flac", "flac"),
        "FLAC behind a cover": (id3(HEAD + 5000) + sound["flac"], "flac", "flac"),
        "MP3 behind a cover": (id3(HEAD + 5000) + plain, "mp3", "mp3"),
        "MP3 behind NULs": (bytes(3000) + plain, "mp3", "mp3"),
        "MP3 behind a tag and NULs": (id3(100) + bytes(1000) + plain, "mp3", "mp3"),
        "MP3 behind two tags": (id3(100) + id3(200) + plain, "mp3", "mp3"),
        "MP3 behind APE": (ape(400) + plain, "mp3", "mp3"),
        "MP3 in RIFF": ((folder / "mp3.wav").read_bytes(), "mp3", "wav"),
        "MP3 in RMP3": (b"RIFF\0\0\0\0RMP3data" + struct.pack("<I", len(plain)) + plain, "mp3", "mp3"),
        "FLAC behind a cover and NULs": (id3(HEAD - 5000) + bytes(1000) + sound["flac"], "flac", "flac"),
        "RF64": (rf64(wav), "wav", "wav"),
        "RF64 behind a cover": (id3(HEAD + 5000) + rf64(wav), "wav", "wav"),
        "WAV behind ID3": (id3(300) + (folder / "bare.wav").read_bytes(), "wav", "wav"),
        "BW64": (b"BW64" + rf64(wav)[4:], "wav", "wav"),
        "a WAV from a pipe": (piped[: data + 4] + b"\xff\xff\xff\xff" + piped[data + 8 :], "wav", "wav"),
        "a WAV that was never closed": (piped[: data + 4] + bytes(4) + piped[data + 8 :], "wav", "wav"),
        "ADTS": (adts, "aac", "aac"),
        "ADTS with room for a CRC": (crc(adts), "aac", "aac"),
        "ADTS behind ID3": (id3(300) + adts, "aac", "aac"),
        "M4A under the name of an MP3": (sound["m4a"], "mp3", "mp4"),
        "MP3 under the name of an M4A": (plain, "m4a", "mp3"),
        "Ogg under the name of a WAV": (sound["ogg"], "wav", "ogg"),
    }


async def test_sounds_are_what_is_inside(sine: Path, tmp_path: Path) -> None:
    for name, (body, extension, container) in brought(sine).items():
        form = FORMATS[AssetType.BGM][extension]
        form.check(body[:HEAD_BYTES], len(body))
        # Where the sound begins beyond the head, its name decides until the inside was read.
        seen = sound_start(body)[1] < HEAD_BYTES
        assert form.mime_of(body[:HEAD_BYTES]) == (SOUND_MIMES[container] if seen else form.mime), name
        read = Bytes(body)
        facts = await sound_facts(read, len(body), extension)
        assert read.read <= LIMIT, name
        assert facts["container"] == container, name
        assert facts["sample_rate"] == 44100, name
        assert facts["channels"] == 2, name
        assert facts["duration"] == pytest.approx(5, abs=0.2), name
        if name in ("ADTS behind ID3", "WAV behind ID3"):
            assert facts["title"] == "Aoi", name
        if "CRC" in name:
            # Its sums are not right, which decoders check.
            continue
        path = tmp_path / f"sound.{extension}"
        path.write_bytes(body)
        whole, problem = await decode_tasks.decode_file("sound", str(path))
        assert problem is None, name
        assert (whole["sample_rate"], whole["channels"]) == (44100, 2), name
        assert whole["duration"] == pytest.approx(5, abs=0.2), name


def test_a_head_of_tags_alone_is_not_followed_for_ever() -> None:
    many = (b"ID3\x03\0\0\0\0\0\0" + b"\0") * 24_000
    assert sound_start(many)[1] == 11 * MOST_TAGS // 2


def test_what_is_no_sound_is_none_under_any_name() -> None:
    for extension, form in FORMATS[AssetType.BGM].items():
        for body in (
            b"MZ\x90\0" * 30,
            "text in UTF-16, which begins as a frame does".encode("utf-16"),
            id3(20) + b"MZ\x90\0" * 30,
            files.png(),
            b"RIFF\0\0\0\0AVI LIST" + bytes(60),
            b"",
        ):
            if extension == "mp3" and body[:1] == b"\xff":
                continue
            with pytest.raises(SignatureMismatch):
                form.check(body[:HEAD_BYTES], len(body))


async def test_a_sound_that_changes_on_its_way_is_heard_whole(tmp_path: Path) -> None:
    parts = []
    for rate, channels in ((44100, 2), (22050, 1), (48000, 2)):
        path = tmp_path / f"{rate}.mp3"
        source = ["-f", "lavfi", "-i", f"sine=frequency=500:duration=2:sample_rate={rate}", "-ac", str(channels)]
        ffmpeg(*source, "-write_xing", "0", "-id3v2_version", "0", str(path))
        parts.append(path.read_bytes())
    (tmp_path / "all.mp3").write_bytes(b"".join(parts))
    whole, problem = await decode_tasks.decode_file("sound", str(tmp_path / "all.mp3"))
    assert problem is None
    assert whole["duration"] == pytest.approx(6, abs=0.4)
    assert min(whole["peaks"][2:-4]) > 0.3 * max(whole["peaks"])


async def test_a_head_that_claims_hours_is_not_believed(tmp_path: Path) -> None:
    """The first frame's bitrate, which stands for the others where there is no table, is the lowest."""
    path = tmp_path / "plain.mp3"
    ffmpeg("-f", "lavfi", "-i", "sine=duration=2", "-ac", "2", "-id3v2_version", "4", str(path))
    body = path.read_bytes()
    at = body.index(b"Info") if b"Info" in body else body.index(b"Xing")
    # Its table says how many frames there are.
    path.write_bytes(body[: at + 8] + struct.pack(">I", 2_000_000) + body[at + 12 :])
    claimed = await sound_facts(Bytes(path.read_bytes()), len(body), "mp3")
    assert claimed["duration"] > 7200
    whole, problem = await decode_tasks.decode_file("sound", str(path))
    assert (problem, whole["duration"]) == (None, pytest.approx(2, abs=0.2))
    asset = Asset(size_bytes=len(body), duration_seconds=claimed["duration"], facts={"sound": claimed})
    assert not decode_tasks._claims_too_much(asset)
