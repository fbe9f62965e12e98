"""Decides what a key names: for reads, uploads, sidecars and thumbnails alike.

Pure. A file has two names: the key that its owner asked for (the wanted key, one name space for each user), and its public
key, which is minted, unique, and kept for ever. A public key has a tag, as `vrm/Aoi~k3v9q2ma.vrm` does, and no wanted key
has one. A file that was published has a third one as well: its wanted key as a *plain name*, which the first user who
published it keeps, unless the studio itself has published a file under it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from fnmatch import fnmatchcase
from typing import Generic, Literal, TypeVar

from butai.assets import letters
from butai.assets.keys import MAX_KEY_BYTES, MAX_SEGMENT_LETTERS, AssetKey

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_TAG_LENGTH = 8
_TAGGED = re.compile(
    rf"(?P<stem>.*[^/])~[{_ALPHABET}]{{{_TAG_LENGTH}}}"
    r"(?P<ending>_(?i:thumb\.(?:png|jpe?g|webp)|meta\.json)|\.[^./]+)",
    re.DOTALL,
)
_LONGEST_SUFFIX = len("_thumb.jpeg")


def is_public(text: str) -> bool:
    """Whether a key has the form of a public key, or of a sidecar that is named after one."""
    return _TAGGED.fullmatch(text) is not None


def plain(text: str) -> str:
    """Returns a key without tags."""
    while match := _TAGGED.fullmatch(text):
        text = match["stem"] + match["ending"]
    return text


def stem_of(public_key: str) -> str:
    """Returns what a file's public key and those of its sidecars begin with: `vrm/Aoi~k3v9q2ma`."""
    return public_key.rpartition(".")[0]


def mint(key: AssetKey) -> str:
    """Makes a public key. 40 random bits; callers try again when it is taken.

    Names and folders that would leave no room for a tag, or for the suffix of a sidecar, are shortened: it is at most as long
    as a wanted key may be.
    """
    tag = "~" + "".join(secrets.choice(_ALPHABET) for _ in range(_TAG_LENGTH))
    ending = key.text[len(key.stem) :]
    folder, slash, name = key.stem.rpartition("/")
    room = len(tag) + max(len(ending), _LONGEST_SUFFIX)
    name = name[: MAX_SEGMENT_LETTERS - room]
    if len((folder + slash + name).encode()) > MAX_KEY_BYTES - room:
        # The first part decides the list that a file is in.
        folder = folder.partition("/")[0]
        name = name.encode()[: MAX_KEY_BYTES - room - len((folder + slash).encode())].decode(errors="ignore")
    return letters.normalized(folder + slash + name) + tag + ending


# Reads


class Via(IntEnum):
    """How a key leads to a file, in the order in which it is looked for."""

    OWN = 0
    """It is the caller's, by its wanted key or its public one."""
    PUBLIC = 1
    """By its public key."""
    STUDIO = 2
    """By its plain name, which is the studio's own."""
    FIRST = 3
    """By its plain name, which is the first user's who published it."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Candidate(Generic[T]):
    """A file to which a key may lead. `place`: of the reading that leads to it, the most literal first. `ended`: it failed, or
    lies in the trash, or is purged. `readable`: for this caller, as if it were not the caller's own."""

    name: str
    place: int
    via: Via
    ended: bool
    readable: bool
    file: T


def choose(candidates: Iterable[Candidate[T]], reserved: Sequence[str]) -> Candidate[T] | None:
    """Returns the one that a key names for a caller; None when it names none that the caller may know of.

    The caller's own comes first in every spelling and every state: that one ends the search, though it may have no bytes, but
    for the plain names of the studio's own files (`reserved`, patterns). The holder of a plain name ends it too.
    """
    found = sorted(candidates, key=lambda one: (one.via > Via.OWN, one.via > Via.PUBLIC, one.place, one.via))
    for one in found:
        if one.via is Via.OWN:
            if not (one.ended and is_reserved(one.name, reserved)):
                return one
        elif one.via is Via.PUBLIC:
            if one.readable:
                return one
        elif one.via is Via.STUDIO or not is_reserved(one.name, reserved):
            return one if one.readable else None
    return None


def is_reserved(name: str, patterns: Sequence[str]) -> bool:
    """Whether a plain name is for the studio's own files alone."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


# Sidecars


def sidecar_key(main_stem: str, key: AssetKey) -> str:
    """Returns the key of a sidecar beside a file whose key begins with `main_stem`, with the suffix that `key` has."""
    return main_stem + key.text[len(key.stem) :]


Picture = Literal["uploaded", "derived"]


@dataclass(frozen=True, slots=True)
class Companion:
    """A file beside which a sidecar may be put. `has`: its sidecar of this kind; `created`: seconds."""

    live: bool
    private: bool
    has: Picture | None
    created: float


def precedence(file: Companion) -> tuple[bool, int, bool, float]:
    """Orders a user's files that differ in their extension alone, for a sidecar that is named after all of them: it is put
    beside the first. One in the trash is the last. Of two that both have a sidecar a private one is first, so that nothing of
    it becomes public beside the other; else the newest, whose sidecar usually follows it."""
    return not file.live, {None: 0, "derived": 1, "uploaded": 2}[file.has], not file.private, -file.created
