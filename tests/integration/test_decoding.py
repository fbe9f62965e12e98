"""Music and skies from their upload to what a page shows: waveform, loudness, preview."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Api
from tests.unit.test_inspect_media import radiance


def sine(path: Path) -> bytes:
    arguments = ["-y", "-v", "error", "-f", "lavfi", "-i", "sine=frequency=1000:duration=3", "-ac", "2", str(path)]
    subprocess.run(["ffmpeg", *arguments], check=True, timeout=60)
    return path.read_bytes()


async def test_music_has_a_waveform_and_a_loudness(api: Api, tmp_path: Path, run_jobs: Any) -> None:
    status, answer = await api.upload("alice", "bgm/sine.mp3", sine(tmp_path / "sine.mp3"))
    assert status == 200
    asset_id = answer["data"]["id"]
    assert (await api.call("GET", f"/api/assets/{asset_id}/waveform", "alice"))[0] == 404
    await run_jobs()
    status, found = await api.call("GET", f"/api/assets/{asset_id}/waveform", "alice")
    assert status == 200
    assert found["duration_seconds"] == pytest.approx(3, abs=0.1)
    assert 25 <= len(found["peaks"]) <= 35
    assert max(found["peaks"]) > 1000
    asset = (await api.call("GET", f"/api/assets/{asset_id}", "alice"))[1]
    assert asset["facts"]["sound"]["loudness_lufs"] < -10
    assert asset["duration_seconds"] == found["duration_seconds"]
    assert (await api.items("alice", "bgm"))[0]["duration"] == found["duration_seconds"]
    # For other users it does not exist while it is private.
    assert (await api.call("GET", f"/api/assets/{asset_id}/waveform", "bob"))[0] == 404
    assert (await api.call("GET", f"/api/assets/{asset_id}/waveform"))[0] == 401


async def test_a_sky_has_a_preview(api: Api, run_jobs: Any) -> None:
    await api.upload("alice", "hdr/sky.hdr", radiance(256, 128))
    await run_jobs()
    item = (await api.items("alice", "hdr"))[0]
    assert item["hasThumbnail"]
    status, body, headers = await api.read(item["thumbnail"], "alice")
    assert (status, headers["content-type"], body[:3]) == (200, "image/jpeg", b"\xff\xd8\xff")
    asset = (await api.call("GET", f"/api/assets/{item['id']}", "alice"))[1]
    assert asset["facts"]["picture"] == {"width": 256, "height": 128}


async def test_a_sky_that_ffmpeg_cannot_show_has_no_preview_and_is_not_broken(
    api: Api, tmp_path: Path, run_jobs: Any
) -> None:
    """It says that its pixels have depths, of which ffmpeg reads none."""
    path = tmp_path / "sky.exr"
    arguments = ["-y", "-v", "error", "-f", "lavfi", "-i", "testsrc=size=64x32", "-frames:v", "1"]
    subprocess.run(["ffmpeg", *arguments, "-pix_fmt", "gbrpf32le", str(path)], check=True, timeout=60)
    body = bytearray(path.read_bytes())
    body[5] |= 0x08
    await api.upload("alice", "hdr/sky.exr", bytes(body))
    await run_jobs()
    (item,) = await api.items("alice", "hdr")
    asset = (await api.call("GET", f"/api/assets/{item['id']}", "alice"))[1]
    assert asset["facts"]["picture"]["width"] == 64
    assert (asset["inspect_error"], asset["facts"]["decode_error"]) == (None, "no_preview")


async def test_a_broken_file_harms_nobody(api: Api, tmp_path: Path, run_jobs: Any) -> None:
    await api.upload("alice", "bgm/broken.mp3", b"ID3\x04\x00\x00\x00\x00\x00\x00" + bytes(4000))
    await api.upload("alice", "hdr/broken.hdr", b"#?RADIANCE\n\nnothing")
    await api.upload("alice", "bgm/good.flac", sine(tmp_path / "good.flac"))
    await run_jobs()
    items = {item["name"]: item["id"] for kind in ("bgm", "hdr") for item in await api.items("alice", kind)}
    assert set(items) == {"broken", "good"} or len(items) == 2
    facts: dict[str, Any] = {}
    for kind in ("bgm", "hdr"):
        for item in await api.items("alice", kind):
            facts[item["s3Key"]] = (await api.call("GET", f"/api/assets/{item['id']}", "alice"))[1]
    assert facts["bgm/broken.mp3"]["facts"]["decode_error"] == "decode_failed"
    assert facts["hdr/broken.hdr"]["facts"]["decode_error"] == "decode_failed"
    assert facts["hdr/broken.hdr"]["inspect_error"] == "signature_mismatch"
    assert "decode_error" not in facts["bgm/good.flac"]["facts"]
    assert {one["status"] for one in facts.values()} == {"ready"}
