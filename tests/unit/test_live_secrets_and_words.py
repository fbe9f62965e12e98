"""Sealed stream keys, and what a host reads."""

from __future__ import annotations

import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from butai.config import LiveSettings
from butai.errors import Code, SecretKeyInvalid
from butai.live.broadcasts.queries import _retryable
from butai.live.stream_keys import SealBroken, Sealer
from butai.live.texts import HOST_CODES, preferred_language, words

SUBJECT = UUID(int=7)
KEY = "canary-1c9e-stream-key"


def sealer(*keys: str, file: Path | None = None) -> Sealer:
    return Sealer(LiveSettings(secret_key=SecretStr(",".join(keys)), secret_key_file=file))


@given(st.text(min_size=1, max_size=200))
def test_what_was_sealed_opens_again(text: str) -> None:
    box = sealer("ab" * 32)
    blob = box.seal(text, SUBJECT)
    assert box.open(blob) == text
    assert blob != box.seal(text, SUBJECT)


def test_a_changed_blob_does_not_open() -> None:
    box = sealer("ab" * 32)
    blob = box.seal(KEY, SUBJECT)
    assert KEY.encode() not in blob
    for place in range(len(blob)):
        changed = blob[:place] + bytes((blob[place] ^ 1,)) + blob[place + 1 :]
        with pytest.raises(SealBroken):
            box.open(changed)
    for cut in (0, 1, 20, len(blob) - 1):
        with pytest.raises(SealBroken):
            box.open(blob[:cut])
    # Another destination's id in the head.
    with pytest.raises(SealBroken):
        box.open(blob[:5] + UUID(int=8).bytes + blob[21:])


def test_a_blob_opens_for_its_subject_alone() -> None:
    box = sealer("ab" * 32)
    blob = box.seal(KEY, SUBJECT)
    assert box.open(blob, SUBJECT) == KEY
    with pytest.raises(SealBroken):
        box.open(blob, UUID(int=8))


def test_a_key_file_that_cannot_be_is_one_clear_line(tmp_path: Path) -> None:
    for file in (tmp_path / "no-such-folder" / "key", tmp_path):
        with pytest.raises(SecretKeyInvalid) as caught:
            sealer(file=file)
        assert "BUTAI_SECRET_KEY_FILE" in str(caught.value)


def test_a_new_key_seals_and_the_old_one_still_opens() -> None:
    old = sealer("ab" * 32).seal(KEY, SUBJECT)
    both = sealer("cd" * 32, "ab" * 32)
    assert both.open(old) == KEY and both.rotates and old[1:5] != both.newest
    new, mark = both.renewed(old)
    assert new[1:5] == both.newest and mark == both.fingerprint(KEY)
    assert sealer("cd" * 32).open(new, SUBJECT) == KEY
    with pytest.raises(SealBroken) as caught:
        sealer("cd" * 32).open(old)
    assert KEY not in str(caught.value) and "ab" * 4 not in str(caught.value)


def test_a_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "secret.key"
    with ThreadPoolExecutor(8) as crowd:
        blobs = list(crowd.map(lambda _: sealer(file=file).seal(KEY, SUBJECT), range(8)))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {sealer(file=file).open(blob) for blob in blobs} == {KEY}
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]


@pytest.mark.parametrize("key", ["short", "zz" * 32, "ab" * 31])
def test_a_key_that_is_none_is_refused_without_being_told(key: str) -> None:
    with pytest.raises(SecretKeyInvalid) as caught:
        sealer(key)
    assert key not in str(caught.value)


def test_base64_and_hexadecimal_are_the_same_key() -> None:
    blob = sealer("00" * 32).seal(KEY, SUBJECT)
    assert sealer("A" * 43 + "=").open(blob) == KEY
    assert sealer("A" * 43).open(blob) == KEY


def test_without_a_key_nothing_is_sealed() -> None:
    assert not sealer("").ready
    with pytest.raises(SecretKeyInvalid):
        sealer("").seal(KEY, SUBJECT)


def test_a_fingerprint_says_nothing_of_the_key() -> None:
    box = sealer("ab" * 32)
    assert box.fingerprint(KEY) == box.fingerprint(KEY) != box.fingerprint(KEY + "x")
    assert sealer("cd" * 32).fingerprint(KEY) != box.fingerprint(KEY)
    assert len(box.fingerprint(KEY)) == 8


def test_every_code_has_words_in_both_languages() -> None:
    for code in HOST_CODES:
        for tongue in ("en", "zh"):
            message, action = words(code, "youtube", tongue)
            assert message and action and "{" not in message + action
            assert any("一" <= letter <= "鿿" for letter in message) is (tongue == "zh")
    assert "the platform" in words("key_rejected", None, "en")[0]
    assert words("unheard_of", None, "en") == ("unheard_of", "")


def test_what_the_host_has_to_do_is_not_called_retryable() -> None:
    assert not _retryable(Code.RETRIES_EXHAUSTED)
    assert _retryable(Code.DESTINATION_CLOSED) and _retryable(Code.KEY_REJECTED)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "en"),
        ("", "en"),
        ("zh", "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9,zh;q=0.8", "en"),
        ("fr, zh;q=0.2", "zh"),
        ("zh;q=0, en;q=0.1", "en"),
        ("zh;q=x", "en"),
        ("," * 5000, "en"),
    ],
)
def test_the_language_is_the_askers(accept: str | None, expected: str) -> None:
    assert preferred_language(accept) == expected


@pytest.mark.parametrize("code", sorted(HOST_CODES))
def test_chinese_texts_have_chinese_punctuation_and_no_text_names_an_administrator(code: Code) -> None:
    event, advice = words(code, "youtube", "zh")
    assert not re.search(r"[\u4e00-\u9fff]\s*[,;:.!?()]", f"{event} {advice}")
    # docs/vocabulary.md: the word is operator.
    assert "administrator" not in " ".join(words(code, "youtube", "en")).lower()
