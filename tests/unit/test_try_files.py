"""`scripts/try-files`, which people run on a folder of their own."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests import avatars, files

ROOT = Path(__file__).parents[2]


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts/try-files", str(folder)], capture_output=True, text=True, check=False, timeout=120
    )


def test_it_says_what_was_refused_and_why(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/good.vrm").write_bytes(avatars.vrm1(files.png(8, 8)))
    (tmp_path / "good.bvh").write_bytes(avatars.bvh(3).lower())
    (tmp_path / "cut.glb").write_bytes(avatars.vrm1()[:-4])
    (tmp_path / "page.mp3").write_bytes(b"<html>" * 20)
    (tmp_path / "text.txt").write_text("of no kind")
    ended = run(tmp_path)
    assert ended.returncode == 1, ended.stderr
    *lines, last = ended.stdout.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [
        ["cut.glb", lines[0].split("\t")[1]],
        ["page.mp3", "refused: signature_mismatch: The content does not match the file name"],
    ]
    assert lines[0].split("\t")[1].startswith("refused: glb_invalid: The header says")
    assert last == "2 refused, 2 taken, 1 other"


def test_a_folder_is_needed(tmp_path: Path) -> None:
    assert run(tmp_path / "none").returncode == 2
    ended = run(tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "no files\n")
