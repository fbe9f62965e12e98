"""What a host gives as a destination's addresses and key, and the columns that it becomes: secrets are sealed, wherever they were
pasted."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from butai.errors import InvalidDestination
from butai.live.models import Destination
from butai.live.stream_keys import SealBroken, Sealer
from butai.relay.rtmp.addresses import AddressInvalid, check_key, check_pair
from butai.relay.rtmp.hidden import MARKS, as_typed, complete, from_whole_url, hidden_parts, sealed_text, separate


@dataclass(frozen=True, slots=True)
class DestinationValues:
    """Values of a new destination, or changes: None leaves a field as it is. `clear_backup` removes the backup URL."""

    label: str | None = None
    ingest_url: str | None = None
    backup_ingest_url: str | None = None
    clear_backup: bool = False
    stream_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("ingest_url", "backup_ingest_url", "stream_key"):
            # Blanks alone are refused, and are no empty text.
            if (text := getattr(self, name)) and (typed := as_typed(text)):
                object.__setattr__(self, name, typed)

    @property
    def changes_target(self) -> bool:
        """Whether anything but the label is given."""
        return self.clear_backup or (self.ingest_url, self.backup_ingest_url, self.stream_key) != (None, None, None)


@dataclass(frozen=True, slots=True)
class TargetFields:
    """The columns of an ingest URL and its key. `secret`: what is sealed; None for what is sealed already."""

    url: str
    backup_url: str | None
    secret: str | None = field(repr=False)


@contextmanager
def refused_as_destination() -> Generator[None]:
    """Turns `AddressInvalid` into `InvalidDestination`."""
    try:
        yield
    except AddressInvalid as error:
        raise InvalidDestination(str(error)) from None


def separated(platform: str, url: str, backup_url: str | None, key: str) -> TargetFields:
    """The columns of what a host gave. Raises `AddressInvalid`."""
    _check_text(key)
    first = separate(url, key)
    second = separate(backup_url, first.key) if backup_url else None
    shown, secret = first.shown(MARKS[0]), sealed_text(first.key, first.hidden, second.hidden if second else "")
    return TargetFields(shown, second.shown(MARKS[1]) if second else None, _checked(platform, shown, secret))


def changed(sealer: Sealer, destination: Destination, wanted: DestinationValues) -> TargetFields:
    """The columns after a change. An ingest URL that is given as it is shown stays. Raises `AddressInvalid`."""
    try:
        sealed: str | None = sealer.open(destination.sealed_key, destination.id)
    except SealBroken:
        # Lost, unless a new key comes with this change.
        sealed = None
    key, hidden, hidden_backup = hidden_parts(sealed or "")
    url, backup = destination.ingest_url, None if wanted.clear_backup else destination.backup_ingest_url
    new_url = None if wanted.ingest_url == url else wanted.ingest_url
    new_backup = None if wanted.backup_ingest_url == backup else wanted.backup_ingest_url
    if wanted.stream_key is not None:
        new_url, key = from_whole_url(new_url, wanted.stream_key, url)
        _check_text(key)
    if new_url is not None:
        first = separate(new_url, key)
        url, key, hidden = first.shown(MARKS[0]), first.key, first.hidden
    if new_backup is not None:
        second = separate(new_backup, key)
        backup, hidden_backup = second.shown(MARKS[1]), second.hidden
    if sealed is None and wanted.stream_key is None:
        return TargetFields(url, backup, None)
    secret = _checked(destination.platform, url, sealed_text(key, hidden, hidden_backup if backup else ""))
    return TargetFields(url, backup, None if secret == sealed else secret)


def check_label(label: str, secret: str) -> None:
    """Checks that a label, which is shown, has no secret of the destination. Raises `AddressInvalid`."""
    if any(len(line) >= _SHORTEST_SECRET and line in label for line in secret.split("\n")):
        raise AddressInvalid("The label is shown to others: it must not contain the stream key")


_SHORTEST_SECRET = 8
"""Letters of a key from which on it is no word of a label by chance."""


def _checked(platform: str, url: str, secret: str) -> str:
    """What is to be sealed, after a check of its stream key. Raises `AddressInvalid`."""
    complete_url, key = complete(url, secret)
    if complete_url.endswith(MARKS):
        raise AddressInvalid("The hidden part of the address is lost: give the whole address again")
    address = check_pair(complete_url, key)
    if platform != "custom":
        check_key(key)
        if not address.app:
            raise AddressInvalid("The ingest URL names no application, such as /live2 or /app")
    return secret


def _check_text(key: str) -> None:
    """Checks the letters of a key, before it is sealed with anything else. Raises `AddressInvalid`."""
    if key:
        check_key(key)
