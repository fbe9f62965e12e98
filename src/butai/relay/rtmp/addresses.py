"""Ingest URLs: their syntax, and the IP addresses that a server may connect to. Pure.

A URL is checked when a destination is saved, and again before each connection, since DNS may have changed in between.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

PORTS = {"rtmp": 1935, "rtmps": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LONGEST = 3000
LONGEST_KEY = 2000
"""Letters of a stream key: some servers take a signed token as one."""
_PRINTABLE = re.compile(r"[!-~]+")


class AddressInvalid(ValueError):
    """The URL or stream key is not valid. The text says why, and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class IngestAddress:
    """A parsed ingest URL. `app` of `rtmps://host:443/live2?backup=1` is `live2?backup=1`: the query precedes the key. It is
    empty for a server without applications."""

    secure: bool
    host: str
    port: int
    app: str

    @property
    def url(self) -> str:
        """The URL as RTMP's `tcUrl` has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"rtmp{'s' if self.secure else ''}://{host}:{self.port}/{self.app}"


_IVS = ".live-video.net"
"""Amazon's ingest servers, of Twitch, Kick and others. Kick shows its address without their one application, `app`."""


def parse(url: str) -> IngestAddress:
    """Parses an ingest URL without its stream key. Raises `AddressInvalid`."""
    if not 0 < len(url) <= _LONGEST or not _PRINTABLE.fullmatch(url):
        raise AddressInvalid(f"An ingest URL has 1 to {_LONGEST} plain characters")
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError:
        raise AddressInvalid("The ingest URL cannot be read") from None
    if split.scheme not in PORTS:
        raise AddressInvalid("An ingest URL begins with rtmp:// or rtmps://")
    if "@" in split.netloc:
        raise AddressInvalid("An ingest URL has no user name or password: Butai signs in with a stream key alone")
    host = split.hostname
    if not host or len(host) > 253 or not re.fullmatch(r"[a-z0-9.:_-]+", host):
        raise AddressInvalid("The ingest URL names no host")
    if port == 0:
        raise AddressInvalid("The port cannot be 0")
    app = split.path.strip("/")
    if not app and host.endswith(_IVS):
        app = "app"
    if split.fragment:
        raise AddressInvalid("An ingest URL has no #")
    return IngestAddress(
        split.scheme == "rtmps", host, port or PORTS[split.scheme], app + (f"?{split.query}" if split.query else "")
    )


def server_of(url: str) -> str:
    """An ingest URL's scheme, host and port, which hold no secret. Raises `AddressInvalid`."""
    return replace(parse(url), app="").url


def check_key(key: str) -> None:
    """Checks a stream key: 1 to `LONGEST_KEY` printable ASCII characters without blanks. Raises `AddressInvalid`."""
    if not 0 < len(key) <= LONGEST_KEY or not _PRINTABLE.fullmatch(key):
        raise AddressInvalid(f"A stream key has 1 to {LONGEST_KEY} plain characters without blanks")


def check_pair(url: str, key: str) -> IngestAddress:
    """Parses an ingest URL, and checks the stream key that goes with it: empty only where the URL names the stream, as for
    MediaMTX. Raises `AddressInvalid`."""
    address = parse(url)
    if key or not address.app:
        check_key(key)
    return address


_NEVER = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",
        "fe80::/10",
        # Metadata services outside of the link-local range: Azure's wire server, Alibaba Cloud, Oracle Cloud, AWS's for
        # instances and pods, Google's, Scaleway's.
        "168.63.129.16/32",
        "100.100.100.200/32",
        "192.0.0.192/32",
        "fd00:ec2::/32",
        "fd20:ce::254/128",
        "fd00:42::42/128",
    )
)
"""Addresses that no user's name may lead to, whatever is allowed: link-local ones, and those at which clouds hand out the
credentials of a machine."""
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.ip_network("::/96")
_TRANSLATED = ipaddress.ip_network("::ffff:0:0:0/96")


def is_forbidden(address: str) -> bool:
    """Whether an IP address is link-local or a cloud's metadata service, in any IPv6 form that carries it too. True for text
    that is no IP address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True
    forms = [parsed]
    if isinstance(parsed, ipaddress.IPv6Address):
        forms += [one for one in (parsed.ipv4_mapped, parsed.sixtofour, *(parsed.teredo or ())) if one is not None]
        if any(parsed in network for network in (_NAT64, _NAT64_LOCAL, _COMPATIBLE, _TRANSLATED)):
            forms.append(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF))
    return any(one in network for one in forms for network in _NEVER)


def is_address(host: str) -> bool:
    """Whether a host is an IP address, and no name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_private(address: str) -> bool:
    """Whether an IP address is not global: loopback, private, link-local (the metadata services of clouds), multicast, reserved,
    or an IPv6 form that carries such an IPv4 address. True for text that is no IP address.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True
    if isinstance(parsed, ipaddress.IPv6Address):
        embedded = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
        if embedded is None and parsed in _NAT64:
            embedded = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if embedded is not None:
            return is_private(str(embedded))
        # Only 2000::/3 is allocated; Python calls addresses outside of it global (::127.0.0.1, fec0::).
        if not parsed.is_global or int(parsed) >> 125 != 1:
            return True
    return not parsed.is_global or parsed.is_multicast
