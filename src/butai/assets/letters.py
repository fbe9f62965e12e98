"""Which letters a key may have, so that two keys that look the same are the same, and a key does not change how the text
around it is shown.

Pure.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import idna

from butai.errors import KeyInvalid

_REFUSED = {
    "Cc": "a control character",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
    "Cs": "half of a surrogate pair",
}
"""By general category of Unicode."""

BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters with the property Bidi_Control (Unicode Standard Annex #9): `exe.mrv` with one shows as `vrm.exe`."""

_VISIBLE_FORMATS = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
"""Characters of category Cf that are drawn: they have the property Prepended_Concatenation_Mark."""

_JOINERS = "\u200c\u200d"
_BLACK_FLAG = "\U0001f3f4"
"""Tag letters after it spell a region, as in the flag of Scotland (Unicode Technical Standard #51)."""
_TAGS = frozenset(map(chr, range(0xE0020, 0xE0080)))
_MODIFIERS = frozenset("\ufe0f\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")
"""What may stand between an emoji and the joiner after it: the variation selector and the skin tones."""


def normalized(text: str) -> str:
    """Returns the text in NFC, since macOS spells é in two characters and both spellings are one file, without letters of
    no width.

    Those stay where they change what is seen: a joiner between emoji, one where the letters around it join (RFC 5892,
    appendix A), and the tags of a flag. Raises `KeyInvalid` for control characters, separators of lines and paragraphs,
    backslashes, and characters that turn the direction of text.
    """
    text = unicodedata.normalize("NFC", text)
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    for letter in text:
        refused = _REFUSED.get(unicodedata.category(letter))
        if letter in BIDI_CONTROLS:
            refused = "a character that turns the direction of text"
        elif letter == "\\":
            refused = "a backslash"
        if refused:
            raise KeyInvalid(f"The key has {refused} (U+{ord(letter):04X})")
    # What is dropped may have stood between two characters that NFC makes one.
    return unicodedata.normalize("NFC", "".join(_parts(text)))


_SEEN = 32
"""How many letters on either side of a joiner are looked at: marks may stand between it and the letters that join."""


def _parts(text: str) -> Iterator[str]:
    in_flag = False
    for at, letter in enumerate(text):
        in_flag = letter == _BLACK_FLAG or (in_flag and letter in _TAGS)
        if not _is_dropped(text, at, in_flag=in_flag):
            yield letter


def _is_dropped(text: str, at: int, *, in_flag: bool) -> bool:
    letter = text[at]
    if unicodedata.category(letter) != "Cf" or letter in _VISIBLE_FORMATS:
        return False
    if letter in _TAGS:
        return not in_flag
    return letter not in _JOINERS or not (_joins_emoji(text, at) or _joins_letters(text, at))


def _joins_emoji(text: str, at: int) -> bool:
    if text[at] != "\u200d":
        return False
    before = text[max(0, at - _SEEN) : at].rstrip("".join(_MODIFIERS))[-1:]
    after = text[at + 1 : at + 2]
    # Emoji that are joined are all of the category "Symbol, other".
    return bool(before and after) and unicodedata.category(before) == unicodedata.category(after) == "So"


def _joins_letters(text: str, at: int) -> bool:
    start = max(0, at - _SEEN)
    around = text[start : at + _SEEN]
    try:
        return idna.valid_contextj(around, at - start)
    except ValueError:
        # A character beside it that Unicode has no name for.
        return False
