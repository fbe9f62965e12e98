"""Which letters of a key stay, which are dropped, and which are refused."""

from __future__ import annotations

import re
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butai.assets import keys, letters, names
from butai.assets.letters import normalized
from butai.errors import KeyInvalid

DROPPED = {
    "zero width space": "Ao\u200bi",
    "zero width joiner between letters": "Ao\u200di",
    "zero width non-joiner between letters that do not join": "Ao\u200ci",
    "word joiner": "Ao\u2060i",
    "byte order mark": "\ufeffAoi",
    "soft hyphen": "Ao\u00adi",
    "Mongolian vowel separator": "Ao\u180ei",
    "tag letters without a flag": "Aoi\U000e0067\U000e007f",
}


@pytest.mark.parametrize("text", DROPPED.values(), ids=DROPPED)
def test_letters_of_no_width_are_dropped_and_the_title_stays_as_written(text: str) -> None:
    key = keys.parse(f"vrm/{text}.vrm")
    assert (key.text, key.stem, key.name) == ("vrm/Aoi.vrm", "vrm/Aoi", text)


KEPT = {
    "a family": "👩\u200d👩\u200d👧",
    "a skin tone before the joiner": "👩🏽\u200d💻",
    "a variation selector before the joiner": "🏳\ufe0f\u200d🌈",
    "the flag of Scotland": "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "Persian": "می\u200cخواهم",
    "Sinhala": "ශ්\u200dරී",
    "Devanagari": "क्\u200cष",
    "an Arabic sign of category Cf that is drawn": "\u0600\u0661",
    "Japanese": "初音ミク・改",
}


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_what_changes_how_a_name_looks_stays(text: str) -> None:
    key = keys.parse(f"vrm/{text}.vrm")
    assert (key.text, key.name) == (f"vrm/{text}.vrm", text)


REFUSED = [
    "\0",
    "\n",
    "\x7f",
    "\x85",
    "\x9f",
    "\u2028",
    "\u2029",
    "\\",
    "\u202e",
    "\u200e",
    "\u200f",
    "\u061c",
    "\u2066",
    "\u2069",
]


@pytest.mark.parametrize("letter", REFUSED, ids=lambda letter: f"U+{ord(letter):04X}")
def test_what_breaks_lines_or_turns_text_is_refused(letter: str) -> None:
    with pytest.raises(KeyInvalid, match=f"U\\+{ord(letter):04X}"):
        keys.parse(f"vrm/A{letter}oi.vrm")


def test_dropping_makes_no_other_file_and_no_path() -> None:
    # What is dropped stands between characters that NFC makes one.
    assert normalized("e\u200b\u0301") == "é"
    for text in ("vrm/.\u200b./x.vrm", "vrm/\u200b/x.vrm"):
        with pytest.raises(KeyInvalid):
            keys.parse(text)


@given(
    st.text(st.sampled_from("aé\u0301می\u200b\u200c\u200d\ufeff👩👧🏽\ufe0f🏴\U000e0067\U000e007f්රක/."), max_size=12)
)
def test_a_key_that_was_made_is_not_changed_again(text: str) -> None:
    once = normalized(text)
    assert normalized(once) == once == unicodedata.normalize("NFC", once)


def test_a_file_of_an_earlier_version_reads_by_its_old_key() -> None:
    assert keys.readings("vrm/Ao%E2%80%8Bi.vrm") == ("vrm/Aoi.vrm", "vrm/Ao\u200bi.vrm")
    assert keys.readings("vrm/Ao%E2%80%AEi.vrm") == ("vrm/Ao\u202ei.vrm",)


@pytest.mark.parametrize("name", ["舞" * 251, "a" * 251])
def test_a_part_has_at_most_255_letters(name: str) -> None:
    assert keys.parse(f"vrm/{name}.vrm").text == f"vrm/{name}.vrm"
    with pytest.raises(KeyInvalid, match="255 letters"):
        keys.parse(f"vrm/{name}x.vrm")


@pytest.mark.parametrize("letter", ["\U000e0067", "\u200d", "\u200b", "\ufe0f\u200d"])
def test_the_work_for_a_key_grows_with_its_length(letter: str) -> None:
    def work(number: int) -> float:
        text, used = "a" + letter * number, []
        for _ in range(5):
            began = time.process_time()
            normalized(text)
            used.append(time.process_time() - began)
        return min(used)

    # Ten times as many letters: with the square it would be a hundred times the work.
    assert work(3000) < 25 * work(300)


def test_a_key_that_is_too_long_is_refused_before_its_letters_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(letters, "normalized", lambda text: asked.append(text) or text)
    for raw in ("vrm/" + "\U000e0067" * 9000, "vrm/" + "a" * 4000):
        with pytest.raises(KeyInvalid):
            keys.readings(raw)
    assert asked == []


def test_a_key_without_room_for_a_tag_has_a_shorter_public_key() -> None:
    folders = "/".join("舞" * 60 for _ in range(5))
    key = keys.parse("vrm/" + folders + "/" + "b" * (1024 - 4 - len(folders.encode()) - 1 - 6) + "/a.vrm")
    assert len(key.text.encode()) == 1024
    public = names.mint(key)
    assert re.fullmatch(r"vrm/a~[a-z2-9]{8}\.vrm", public), public
    long = keys.parse("vrm/" + folders + "/" + "舞" * 34 + ".vrm")
    assert re.fullmatch(r"vrm/舞{34}~[a-z2-9]{8}\.vrm", names.mint(long))
