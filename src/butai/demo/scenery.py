"""Surroundings for the demo's avatars: two skies as Radiance HDR, and a piece of music as WAV."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

_RATE = 22050
_BEAT = 0.5
"""Seconds: 120 beats a minute."""
_CHORDS = ((57, 60, 64, 69), (53, 57, 60, 65), (48, 55, 60, 64), (55, 59, 62, 67))
"""A minor, F, C, G: MIDI numbers, four notes each, two bars each."""


def music() -> bytes:
    """Sixteen seconds that loop: plucked chords, a bass, a soft drum. 16-bit mono."""
    seconds = _BEAT * 8 * len(_CHORDS)
    sound = np.zeros(int(seconds * _RATE))

    def note(at: float, number: float, length: float, loud: float, bright: float) -> None:
        time = np.arange(int(length * _RATE)) / _RATE
        pitch = 440 * 2 ** ((number - 69) / 12)
        wave = sum(np.sin(2 * np.pi * pitch * n * time) * bright ** (n - 1) / n for n in range(1, 6))
        wave = wave * np.exp(-time * 5 / length) * np.minimum(time * 200, 1) * loud
        # Sound past the end is added at the beginning: it is a loop.
        places = (int(at * _RATE) + np.arange(len(wave))) % len(sound)
        np.add.at(sound, places, wave)

    order = (0, 2, 1, 3, 2, 1, 3, 2)
    for index, chord in enumerate(_CHORDS):
        begin = index * 8 * _BEAT
        for step in range(16):
            note(begin + step * _BEAT / 2, chord[order[step % 8]] + 12, 0.9, 0.16, 0.5)
        for beat in range(8):
            note(begin + beat * _BEAT, chord[0] - 24 + (12 if beat % 4 == 3 else 0), 0.45, 0.22, 0.35)
            time = np.arange(int(0.12 * _RATE)) / _RATE
            drum = np.sin(2 * np.pi * (50 * time + 40 * np.exp(-time * 40) / 40)) * np.exp(-time * 30) * 0.3
            place = int((begin + beat * _BEAT) * _RATE)
            sound[place : place + len(drum)] += drum
    sound *= 0.7 / np.abs(sound).max()
    body = (sound * 32767).astype("<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, 1, _RATE, _RATE * 2, 2, 16)
    head = b"RIFF" + struct.pack("<I", 36 + len(body)) + b"WAVEfmt " + struct.pack("<I", len(form)) + form
    head += b"data" + struct.pack("<I", len(body))
    return head + body


def _radiance(picture: NDArray[np.float64]) -> bytes:
    """The picture (height × width × 3, linear light) as Radiance's RGBE, unpacked ("Real Pixels", Ward, 1991)."""
    height, width, _ = picture.shape
    most = picture.max(axis=-1)
    fraction, exponent = np.frexp(most)
    scale = np.where(most > 1e-32, fraction * 256 / np.maximum(most, 1e-32), 0)
    bytes_ = np.zeros((height, width, 4), np.uint8)
    bytes_[..., :3] = np.clip(picture * scale[..., None], 0, 255)
    bytes_[..., 3] = np.where(most > 1e-32, exponent + 128, 0)
    return f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {height} +X {width}\n".encode() + bytes_.tobytes()


def _sky(
    zenith: tuple[float, float, float],
    horizon: tuple[float, float, float],
    ground: tuple[float, float, float],
    sun: tuple[float, float, float],
    height: float,
) -> bytes:
    rows, columns = 256, 512
    up = np.cos((np.arange(rows) + 0.5) / rows * np.pi)[:, None, None]
    around = ((np.arange(columns) + 0.5) / columns * 2 * np.pi)[None, :, None]
    level = np.sqrt(1 - up**2)
    above = np.clip(up, 0, 1) ** 0.55
    sky = np.array(horizon) * (1 - above) + np.array(zenith) * above
    floor = np.array(ground) * (0.75 + 0.25 * np.clip(-up, 0, 1))
    edge = np.clip(up * 40 + 0.5, 0, 1)
    picture = (sky * edge + floor * (1 - edge)) * np.ones((rows, columns, 1))
    # The sun stands a little left of the viewer's direction.
    toward = level * np.cos(around - 1.25 * np.pi) * np.sqrt(1 - height**2) + up * height
    glow = np.exp((toward - 1) * 14) * 0.9 + np.exp((toward - 1) * 900) * 25
    return _radiance(picture + glow * np.array(sun) * edge)


def noon() -> bytes:
    """A sky on a clear day."""
    return _sky((0.12, 0.32, 0.85), (0.72, 0.86, 1.0), (0.3, 0.42, 0.25), (1.0, 0.95, 0.85), 0.6)


def dusk() -> bytes:
    """A sky at sunset."""
    return _sky((0.09, 0.08, 0.3), (0.95, 0.5, 0.35), (0.16, 0.12, 0.2), (1.0, 0.55, 0.3), 0.08)
