"""Ingest addresses: what one may look like, and which hosts a server may be sent to.

An address is checked when a destination is saved and again when it is connected to: a name may have been pointed elsewhere
in between. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

PORTS = {"rtmp": 1935, "rtmps": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LONGEST = 1000
_PRINTABLE = re.compile(r"[!-~]+")


class AddressInvalid(ValueError):
    """The address cannot be an ingest address. The text says why, and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class IngestAddress:
    """`rtmps://host:443/live2?backup=1`: `app` is `live2?backup=1`, since the query stands before the key."""

    secure: bool
    host: str
    port: int
    app: str

    @property
    def url(self) -> str:
        """As RTMP's `tcUrl` names it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"rtmp{'s' if self.secure else ''}://{host}:{self.port}/{self.app}"


def parse(url: str) -> IngestAddress:
    """The parts of an ingest URL without its key. Raises `AddressInvalid`."""
    if not 0 < len(url) <= _LONGEST or not _PRINTABLE.fullmatch(url):
        raise AddressInvalid(f"An ingest URL has 1 to {_LONGEST} plain characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise AddressInvalid("The ingest URL cannot be read") from None
    if parts.scheme not in PORTS:
        raise AddressInvalid("An ingest URL begins with rtmp:// or rtmps://")
    if "@" in parts.netloc:
        raise AddressInvalid("An ingest URL has no user name or password; the stream key is a field of its own")
    host = parts.hostname
    if not host or len(host) > 253 or not re.fullmatch(r"[a-z0-9.:_-]+", host):
        raise AddressInvalid("The ingest URL names no host")
    if port == 0:
        raise AddressInvalid("The port cannot be 0")
    app = parts.path.strip("/")
    if not app:
        raise AddressInvalid("The ingest URL names no application, such as /live2 or /app")
    if parts.fragment:
        raise AddressInvalid("An ingest URL has no #")
    return IngestAddress(
        parts.scheme == "rtmps", host, port or PORTS[parts.scheme], app + (f"?{parts.query}" if parts.query else "")
    )


def check_key(key: str) -> None:
    """Raises `AddressInvalid` for what no stream key can be: empty, over 500 characters, or with blanks or controls."""
    if not 0 < len(key) <= 500 or not _PRINTABLE.fullmatch(key):
        raise AddressInvalid("A stream key has 1 to 500 plain characters without blanks")


def is_private(address: str) -> bool:
    """Whether an IP address lies where only this network can reach it: loopback, private, link-local (the metadata
    services of clouds), multicast, reserved; also inside of IPv6 forms that carry an IPv4 address.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_private(str(inner))
        # Nothing outside of 2000::/3 is handed out; Python calls some of it global (::127.0.0.1, fec0::).
        if not found.is_global or int(found) >> 125 != 1:
            return True
    return not found.is_global or found.is_multicast
