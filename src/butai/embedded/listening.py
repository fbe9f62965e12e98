"""Checks whether the API can listen on its address, which process already does, and when it is ready."""

from __future__ import annotations

import contextlib
import errno
import http.client
import ipaddress
import socket
from pathlib import Path
from urllib.parse import urlsplit

from butai.embedded.folder import PORTS_FOR_ONE_RUN, choose_port
from butai.embedded.process import StartError

_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
"""The address by which this machine reaches a server that listens on every address."""


def usable_port(host: str, port: int) -> int:
    """The port, if the API can listen on it; any free one for 0. Raises `StartError`, which names the process on a
    taken port."""
    if port == 0:
        return choose_port(among=PORTS_FOR_ONE_RUN)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except PermissionError as error:
            raise StartError(f"port {port} needs more rights: choose one above 1023 with --port") from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise StartError(f"port {port} is taken{_who_listens(port)}: choose another with --port") from error
            raise StartError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return port


def _who_listens(port: int) -> str:
    """` by NAME (process N)`, as far as this user may know."""
    wanted = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    wanted.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                if str(descriptor.readlink()) in wanted:
                    return f" by {(process / 'comm').read_text().strip()} (process {process.name})"
    return ""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url_from_here(host: str, port: int) -> str:
    """The URL for clients on this machine, such as `http://127.0.0.1:8080`."""
    here = _HERE.get(host, host)
    return f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"


def ask(url: str, method: str = "GET", body: bytes = b"") -> tuple[int, str]:
    """The status of an answer over plain HTTP, and its first 2000 bytes. Raises `OSError` or `HTTPException`.

    Uses http.client: `butai up` runs as long as the service does, and a larger client would cost memory.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=5.0)
    try:
        connection.request(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, body)
        response = connection.getresponse()
        return response.status, response.read(2000).decode(errors="replace")
    finally:
        connection.close()


def readiness(host: str, port: int) -> str:
    """Empty when the API reports that it is ready; otherwise its answer. Raises the errors of `ask`."""
    status, said = ask(f"{url_from_here(host, port)}/readyz")
    return "" if status == 200 else f"{status} {said}"
