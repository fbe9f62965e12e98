"""Parses and spells keys.

Pure. Three names of one file:
- the *wanted* key: the key that its owner asked for, such as `vrm/My Avatar (1).vrm`; clients may percent-encode it
twice;
- the *public* key (`s3_key`): minted, unique over all users and for ever; `names` has its form;
- the *object* key: the key in the bucket, random, new for each version, never shown.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import unicodedata
from dataclasses import dataclass
from urllib.parse import quote, unquote

from butai.assets import letters
from butai.assets.kinds import FORMATS, SIDECAR_FORMATS, AssetType, FileFormat, Sidecar
from butai.errors import KeyInvalid, TypeUnsupported

MAX_KEY_BYTES = 1024
"""S3's own limit for a key, in UTF-8."""

MAX_SEGMENT_LETTERS = 255
"""The longest file name that NTFS and APFS take, in letters."""

PREFIXES: dict[str, AssetType] = {
    "vrm": AssetType.VRM,
    "models": AssetType.VRM,
    "animations": AssetType.ANIMATION,
    "fbx": AssetType.ANIMATION,
    "bgm": AssetType.BGM,
    "hdr": AssetType.HDR,
    "scene": AssetType.SCENE,
}

_ROOT_AVATAR = re.compile(r"AvatarSample_[^/]+")
_SIDECAR = re.compile(r"(?P<stem>.+)_(?P<kind>thumb\.(?:png|jpe?g|webp)|meta\.json)", re.IGNORECASE | re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")


@dataclass(frozen=True, slots=True)
class AssetKey:
    """A valid wanted key.

    `stem` joins a file with its sidecars: `vrm/X` for `vrm/X.vrm` and `vrm/X_thumb.png`. `name` is the display name of a
    new asset: the last part as it was written, without its ending.
    """

    text: str
    kind: AssetType
    sidecar: Sidecar | None
    stem: str
    extension: str
    format: FileFormat
    name: str


def _well_formed(text: str) -> str:
    """Returns the key as it is stored (`letters.normalized`). Raises `KeyInvalid`."""
    return _checked(letters.normalized(_bounded(text)))


def _bounded(text: str) -> str:
    if len(text) > MAX_KEY_BYTES * 3:  # NFC makes one letter of three at most
        raise KeyInvalid("The key is too long")
    return text


def _checked(text: str) -> str:
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise KeyInvalid("The key is not valid Unicode") from error
    if not encoded:
        raise KeyInvalid("The key is empty")
    if len(encoded) > MAX_KEY_BYTES:
        raise KeyInvalid(f"The key has {len(encoded)} bytes; {MAX_KEY_BYTES} is the most")
    segments = text.split("/")
    if any(segment in ("", ".", "..") for segment in segments):
        raise KeyInvalid("The key has an empty part, '.' or '..'")
    if any(len(segment) > MAX_SEGMENT_LETTERS for segment in segments):
        raise KeyInvalid(f"A part of the key is longer than {MAX_SEGMENT_LETTERS} letters")
    return text


def _kind(text: str) -> AssetType:
    prefix, slash, _ = text.partition("/")
    if slash and prefix in PREFIXES:
        return PREFIXES[prefix]
    if _ROOT_AVATAR.fullmatch(text):
        return AssetType.VRM
    raise KeyInvalid(f"Keys begin with one of: {', '.join(f'{name}/' for name in PREFIXES)}")


def parse(text: str) -> AssetKey:
    """Parses a key that is to be written. Raises `KeyInvalid`, also for one that its own URL would not read, or
    `TypeUnsupported` for an extension unknown to its type."""
    written, text = text, _well_formed(text)
    kind = _kind(text)
    if "%" in text and not _reads_back(text):
        raise KeyInvalid("The key would be another one in its own URL: decode what is percent-encoded in it")
    folder, slash, file = text.rpartition("/")
    if match := _SIDECAR.fullmatch(file):
        extension = match["kind"].rpartition(".")[2].lower()
        sidecar = Sidecar.META if extension == "json" else Sidecar.THUMB
        stem = folder + slash + match["stem"]
        return AssetKey(
            text, kind, sidecar, stem, extension, SIDECAR_FORMATS[sidecar][extension], _title(written, text, stem)
        )
    name, dot, extension = file.rpartition(".")
    extension = extension.lower()
    found = FORMATS[kind].get(extension) if dot and name else None
    if found is None:
        raise TypeUnsupported(f"{kind} keeps .{', .'.join(FORMATS[kind])}")
    stem = folder + slash + name
    return AssetKey(text, kind, None, stem, extension, found, _title(written, text, stem))


def _reads_back(text: str) -> bool:
    try:
        return readings(encoded(text))[0] == text
    except KeyInvalid:
        return False


def _title(written: str, text: str, stem: str) -> str:
    ending = text[len(stem) :]
    title = written.rpartition("/")[2].removesuffix(ending)
    usable = written.endswith(ending) and 0 < len(title) <= MAX_SEGMENT_LETTERS
    return unicodedata.normalize("NFC", title) if usable else stem.rpartition("/")[2]


def sidecar(text: str) -> AssetKey | None:
    """Parses a key that is read, if it is that of a sidecar; None for any other."""
    if _SIDECAR.fullmatch(text.rpartition("/")[2]) is None:
        return None
    with contextlib.suppress(KeyInvalid, TypeUnsupported):
        return parse(text)
    return None


def readings(raw: str) -> tuple[str, ...]:
    """Returns the keys that a percent-encoded `key=` may mean, most literal first.

    Browsers send a key encoded once or twice, and spell a space as `+`, `%20` or a space; a name may also hold a real
    `+` or `%`. Every decoding that is a well-formed key is looked up in the index. Raises `KeyInvalid` when any
    decoding has `.`, `..` or NUL in it, or when none is well-formed.
    """
    if len(raw) > MAX_KEY_BYTES * 9:  # each byte as %25XX, and a margin
        raise KeyInvalid("The key is too long")
    once = _decoded(raw)
    spaced = _decoded(raw.replace("+", " "))
    twice: list[str] = []
    with contextlib.suppress(KeyInvalid):
        # A name with a real `%` before two hex digits may not decode again: "100%dance.vrm".
        twice = [_decoded(once), _decoded(once.replace("+", " "))]
    found: dict[str, None] = {}
    refused: KeyInvalid | None = None
    for reading in dict.fromkeys((spaced, once, *twice, once.replace(" ", "+"))):
        if any(part in (".", "..") for part in re.split(r"[/\\]", reading)) or "\0" in reading:
            raise KeyInvalid("The key has '.', '..' or NUL in it")
        # As sent, too: earlier versions refused no other letters than these, and dropped none.
        for spelled in (letters.normalized, _as_sent):
            try:
                text = _checked(spelled(_bounded(reading)))
                _kind(text)
            except KeyInvalid as error:
                refused = refused or error
            else:
                found[text] = None
    if not found:
        raise refused or KeyInvalid()
    return tuple(found)


def _as_sent(text: str) -> str:
    if _CONTROL.search(text):
        raise KeyInvalid("The key has a control character or a backslash")
    return unicodedata.normalize("NFC", text)


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise KeyInvalid("The key is not valid UTF-8") from error


def mint_object_key(prefix: str) -> str:
    """Makes a new object key. Random (128 bits): no version is written twice, and none can be guessed.

    The two letters in the middle spread keys over the store's partitions.
    """
    name = secrets.token_hex(16)
    return f"{prefix}butai/{name[:2]}/{name}"


def encoded(key: str) -> str:
    """Returns a key spelled as JavaScript's `encodeURIComponent` does."""
    return quote(key, safe="!*'()")


def read_url(key: str) -> str:
    """Returns the URL that reads a key. The key stands at its end: clients append `&proxy=1` themselves.

    The SQL function `butai_read_url` of migration 0031 spells it the same way.
    """
    return f"/api/s3/read-object?key={encoded(key)}"
