"""The secret parts of an ingest URL, which are sealed with the stream key and never stored or shown. Pure.

Hosts paste what their platform or server gives them: a stream key at the end of the address, a user and a password in its query
(MediaMTX), the whole URL as the key. What belongs to the key is moved there. What has to stay in the address, at the same place
for the server, is replaced by a mark.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from butai.relay.rtmp.addresses import AddressInvalid, IngestAddress, parse

MARKS = ("***", "***2")
"""What stands for the hidden part of an ingest URL, and of a backup ingest URL, at their ends."""

_ONE_APPLICATION = ("youtube.com", "live-video.net")
"""Domains whose ingest URLs have one application and nothing after it."""

_HARMLESS = re.compile(r"backup=\d{1,2}")
"""A query that is no secret: the one of YouTube's backup."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|rtmps?:", re.IGNORECASE)

_UNSEEN = re.compile(r"[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
"""Letters without a shape, which come with text that was copied from a page."""

_LIKE_A_KEY = re.compile(r"[0-9a-z]{4}(-[0-9a-z]{4}){3,}|live_\d+_.*|sk_.*|FB-.*|(?=.*\d)(?=.*[A-Za-z]).{16,}")
"""Names that are keys rather than applications: those of YouTube, Twitch, Kick and Facebook, and long ones with digits."""


@dataclass(frozen=True, slots=True)
class Pasted:
    """An ingest URL without its secret parts. `hidden`: what follows it; `key`: the stream key."""

    url: str
    hidden: str = field(default="", repr=False)
    key: str = field(default="", repr=False)

    def shown(self, mark: str) -> str:
        """The URL as it is stored, with a mark in place of the hidden part."""
        return self.url + mark if self.hidden else self.url


def as_typed(text: str) -> str:
    """A pasted text without what cannot be seen of it: blanks and line ends around it, and letters without a shape."""
    return _UNSEEN.sub("", text).strip()


def complete(url: str, secret: str) -> tuple[str, str]:
    """Returns the whole ingest URL and the stream key, of a stored URL and of what was sealed with it."""
    key, *hidden = secret.split("\n")
    for mark, part in zip(MARKS, hidden, strict=False):
        if url.endswith(mark):
            return url.removesuffix(mark) + part, key
    return url, key


def sealed_text(key: str, hidden: str = "", hidden_backup: str = "") -> str:
    """What is sealed: the stream key, and the hidden parts of the two URLs where there are any."""
    return f"{key}\n{hidden}\n{hidden_backup}" if hidden or hidden_backup else key


def hidden_parts(secret: str) -> tuple[str, str, str]:
    """The stream key and the hidden parts of the two URLs, of a sealed text."""
    key, hidden, hidden_backup = (*secret.split("\n"), "", "")[:3]
    return key, hidden, hidden_backup


def from_whole_url(url: str | None, key: str, default: str = "") -> tuple[str | None, str]:
    """Returns the ingest URL and the stream key, where the key may be a whole URL. `url`: the ingest URL beside it, if given;
    `default`: the platform's. Raises `AddressInvalid` for a URL of another server."""
    beside = url or default
    if not _URL.match(key):
        server = parse(beside) if beside else None
        if server is None or not _begins_with(server, key):
            return url, key
        # A whole URL that was copied without its scheme.
        key = f"rtmp{'s' if server.secure else ''}://{key}"
    try:
        address, split = parse(key), urlsplit(key)
    except AddressInvalid:
        raise AddressInvalid("The stream key is a URL that cannot be used: it needs the key alone") from None
    path, slash, name = split.path.strip("/").rpartition("/")
    query = f"?{split.query}" if split.query else ""
    before, between, tail = split.query.partition("/")
    if between and _HARMLESS.fullmatch(before):
        # YouTube's backup has its query before the key.
        path, slash, name, query = f"{split.path.strip('/')}?{before}", "/", tail, ""
    elif address.app and "/" not in split.path.strip("/") and split.path.endswith("/") and query:
        # Bilibili's keys are a query alone.
        path, slash, name = split.path.strip("/"), "/", ""
    if not slash or not name + query:
        raise AddressInvalid("The stream key is a URL without a key: it needs the key alone")
    if not beside:
        return f"{split.scheme}://{split.netloc}/{path}", name + query
    other = parse(beside)
    same = (address.host, path.partition("?")[0]) == (other.host, other.app.partition("?")[0])
    if not same and (url or _domain(address.host) != _domain(other.host)):
        raise AddressInvalid("The stream key is a URL of another server: it needs the key alone")
    return url, name + query


def _begins_with(server: IngestAddress, key: str) -> bool:
    """Whether a key begins as a URL of this server does. A host's name of one word may begin a key by chance."""
    found = re.match(rf"{re.escape(server.host)}(:\d+)?/", key, re.IGNORECASE)
    if found is None:
        return False
    return "." in server.host or found[1] is not None or key[found.end() :].startswith(f"{server.app}/")


def separate(url: str, key: str) -> Pasted:
    """Separates the secret parts of an ingest URL. Raises `AddressInvalid`."""
    if MARKS[0] in url:
        raise AddressInvalid("*** stands for a part of the address that is hidden: give the whole address again")
    address, split = parse(url), urlsplit(url)
    base, query = f"{split.scheme}://{split.netloc}", split.query
    names = [name for name in split.path.split("/") if name]
    found = Pasted(url, key=key)
    before, slash, tail = query.partition("/")
    if slash and _HARMLESS.fullmatch(before):
        query, found = before, _moved(found, tail)
    elif len(names) > 1 and not key:
        found = replace(found, key=names.pop() + (f"?{query}" if query else ""))
        query = ""
    elif names and key and key.partition("?")[0] == names[-1]:
        names.pop()
        if key.partition("?")[2] == query:
            query = ""
    if len(names) > 1 and _domain(address.host) in _ONE_APPLICATION:
        raise AddressInvalid("The address goes on after its application: the stream key has a field of its own")
    secret = next((number for number, name in enumerate(names) if _LIKE_A_KEY.fullmatch(name)), len(names))
    open_part = "".join(f"/{name}" for name in names[:secret])
    hidden = "/".join(names[secret:])
    if query and not hidden and _HARMLESS.fullmatch(query):
        return replace(found, url=f"{base}{open_part}?{query}")
    if hidden:
        return replace(found, url=f"{base}{open_part}/", hidden=hidden + (f"?{query}" if query else ""))
    return replace(found, url=f"{base}{open_part}" + ("?" if query else ""), hidden=query)


def secret_parts(url: str) -> list[str]:
    """What may be a secret in an ingest URL that another server names: its query, and names in its path that look like
    keys."""
    split = urlsplit(url)
    names = [name for name in split.path.split("/") if _LIKE_A_KEY.fullmatch(name)]
    return names if not split.query or _HARMLESS.fullmatch(split.query) else [*names, split.query]


def _moved(pasted: Pasted, tail: str) -> Pasted:
    """The tail of an address as the stream key, if it has none beside it, or this one."""
    if pasted.key and tail and pasted.key != tail:
        raise AddressInvalid("The address has another key than the field of the stream key")
    return replace(pasted, key=tail or pasted.key)


def _domain(host: str) -> str:
    domain = ".".join(host.split(".")[-2:])
    # Twitch has servers under both.
    return "live-video.net" if domain == "twitch.tv" else domain
