"""One-time codes of the development sign-in, in their folder."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from butai.sign_in import codes as sign_in_codes
from butai.sign_in.codes import CODE_SECONDS, FOLDER, FolderUnsafe, make_code, open_folder, take_code


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder in which codes are kept."""
    open_folder(tmp_path / "data")
    return tmp_path / "data"


def test_a_code_signs_in_once_and_only_whom_it_was_made_for(data: Path) -> None:
    first, second = make_code(data, "aoi"), make_code(data, "operator")
    assert take_code(data, second) == "operator"
    assert take_code(data, first) == "aoi"
    assert take_code(data, first) is None
    assert take_code(data, second) is None
    assert list((data / FOLDER).iterdir()) == []


def test_a_code_has_128_bits_or_more_and_is_not_kept_itself(data: Path) -> None:
    codes = {make_code(data, "aoi") for _ in range(50)}
    assert len(codes) == 50
    assert all(len(code) * 6 >= 128 for code in codes)
    kept = [(path.name, path.read_text()) for path in (data / FOLDER).iterdir()]
    assert not [code for code in codes if any(code in text for pair in kept for text in pair)]


def test_folder_and_files_are_their_owners_alone(data: Path) -> None:
    before = os.umask(0)
    try:
        make_code(data, "aoi")
    finally:
        os.umask(before)
    (kept,) = (data / FOLDER).iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE((data / FOLDER).stat().st_mode) == 0o700


def test_of_many_that_take_one_code_at_once_one_gets_in(data: Path) -> None:
    for _ in range(20):
        code = make_code(data, "aoi")
        got: list[str | None] = []
        gate = threading.Barrier(8)

        def take(code: str = code, got: list[str | None] = got, gate: threading.Barrier = gate) -> None:
            gate.wait()
            got.append(take_code(data, code))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(user for user in got if user) == ["aoi"]
        assert len(got) == 8


def test_a_code_ends_and_is_forgotten(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late, kept = make_code(data, "aoi"), make_code(data, "ren")
    ends = max(json.loads(path.read_text())["ends"] for path in (data / FOLDER).iterdir())
    monkeypatch.setattr(sign_in_codes, "time", SimpleNamespace(time=lambda: ends + 0.001))
    assert take_code(data, late) is None
    assert len(list((data / FOLDER).iterdir())) == 1
    monkeypatch.setattr(sign_in_codes, "time", SimpleNamespace(time=lambda: ends + CODE_SECONDS))
    make_code(data, "aoi")
    assert take_code(data, kept) is None
    assert len(list((data / FOLDER).iterdir())) == 1


@pytest.mark.parametrize(
    "code", ["", "x", "A" * 31, "A" * 33, "A" * 32, "../up.json", "/etc/passwd", "é" * 32, "A" * 31 + "\n"]
)
def test_what_is_no_code_signs_nobody_in(data: Path, code: str) -> None:
    make_code(data, "aoi")
    assert take_code(data, code) is None
    assert len(list((data / FOLDER).iterdir())) == 1


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o701, 0o750])
def test_a_folder_that_others_reach_is_not_used(data: Path, mode: int) -> None:
    code = make_code(data, "aoi")
    (data / FOLDER).chmod(mode)
    with pytest.raises(FolderUnsafe):
        take_code(data, code)
    with pytest.raises(FolderUnsafe):
        make_code(data, "aoi")
    with pytest.raises(FolderUnsafe):
        open_folder(data)


def test_a_link_in_place_of_the_folder_is_not_followed(data: Path, tmp_path: Path) -> None:
    code = make_code(data, "aoi")
    (data / FOLDER).rename(tmp_path / "elsewhere")
    (data / FOLDER).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FolderUnsafe):
        take_code(data, code)


def test_where_no_installation_is_no_code_is_made(tmp_path: Path) -> None:
    with pytest.raises(FolderUnsafe):
        make_code(tmp_path, "aoi")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_code_made_by_root_belongs_to_the_installations_user(data: Path) -> None:
    os.chown(data / FOLDER, 65534, 65534)
    make_code(data, "aoi")
    (kept,) = (data / FOLDER).iterdir()
    assert (kept.stat().st_uid, kept.stat().st_gid) == (65534, 65534)
    # The API of root's does not trust a folder that another user may fill.
    with pytest.raises(FolderUnsafe):
        take_code(data, "A" * 32)
