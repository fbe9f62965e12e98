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
from butai.errors import UploadRefused
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
    whole, problem = await decode_tasks._child("sound", str(path))
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
    whole, _ = await decode_tasks._child("sound", str(path))
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
        found, problem = await decode_tasks._child("picture", str(tmp_path / name))
        assert problem is None
        preview = Image.open(io.BytesIO(base64.b64decode(found["jpeg"])))
        assert preview.size == size
        low, high = preview.convert("L").getextrema()
        # Neither black nor white: its light was brought into range.
        assert isinstance(low, int)
        assert isinstance(high, int)
        assert high - low > 60
    sun = Image.open(
        io.BytesIO(base64.b64decode((await decode_tasks._child("picture", str(tmp_path / "sky.hdr")))[0]["jpeg"]))
    )
    grey = sun.convert("L")
    assert grey.getpixel((40, 8)) > grey.getpixel((10, 20)) + 40  # pyright: ignore[reportOperatorIssue]


@pytest.mark.slow
async def test_what_asks_for_too_much_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A small file that says it is gigantic.
    bomb = tmp_path / "bomb.hdr"
    bomb.write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 60000 +X 60000\n" + bytes(4000))
    assert await decode_tasks._child("picture", str(bomb)) == ({}, "decode_failed")
    for kind, body in (("sound", b"ID3" + bytes(5000)), ("picture", b"\x76\x2f\x31\x01" + bytes(500))):
        (tmp_path / "broken").write_bytes(body)
        assert (await decode_tasks._child(kind, str(tmp_path / "broken")))[1] == "decode_failed"
    ffmpeg("-f", "lavfi", "-i", "sine=duration=600", "-ac", "2", str(tmp_path / "long.flac"))
    monkeypatch.setattr(decode_tasks, "SECONDS", 0.2)
    began = asyncio.get_running_loop().time()
    assert (await decode_tasks._child("sound", str(tmp_path / "long.flac")))[1] == "decode_too_long"
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
        assert await decode_tasks._child("sound", str(tmp_path / name)) == ({}, "decode_failed")
    server.close()
    assert asked == []
