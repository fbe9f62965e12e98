"""Checks whether LiveKit answers and accepts our key. Part of `butai doctor`.

The request is that of LiveKit's own clients (Twirp, RoomService/ListRooms), with a token of one minute that may list
rooms and nothing else. Source: LiveKit, "Server APIs" and "Authentication".
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
from joserfc import jwt
from joserfc.jwk import OctKey
from pydantic import SecretStr

from butai.config import LiveKitSettings, Settings
from butai.doctor.asking import send
from butai.doctor.findings import Findings
from butai.live.projects import DEFAULT, LiveKitKey, Project, Projects, ProjectsInvalid

SHORTEST_SECRET = 32
"""Characters: with a shorter secret LiveKit itself refuses to start, except in its --dev mode."""

_SCHEMES = {"ws": "http", "wss": "https", "http": "http", "https": "https"}


@dataclass(frozen=True)
class _Place:
    """The names of the settings that hold an address and a key, for advice. `whose`: added to the name of each
    finding."""

    whose: str
    url: str
    key: str
    secret: str


_ENVIRONMENT = _Place("", "LIVEKIT_URL", "LIVEKIT_API_KEY and LIVEKIT_API_SECRET", "LIVEKIT_API_SECRET")


async def examine_livekit(settings: Settings, findings: Findings) -> None:
    """Adds findings; raises no error of a server."""
    found = _in_file(settings, findings)
    # A file that names the default project replaces the environment's.
    if DEFAULT not in found and (settings.livekit.url or not found):
        await _examine_environment(settings, findings)
    for name, project in found.items():
        for number, key in enumerate(project.keys, 1):
            called = f"{name} (key {number})" if number > 1 else name
            file = settings.live.livekit_projects_file
            place = _Place(
                f" of {called}", f"url of {name} in {file}", f"key {number} of {name} in {file}", f"api_secret {number}"
            )
            await _examine(findings, place, project.url, key, spare=number > 1)


def _in_file(settings: Settings, findings: Findings) -> dict[str, Project]:
    """The projects of `BUTAI_LIVEKIT_PROJECTS_FILE`."""
    file = settings.live.livekit_projects_file
    if file is None:
        return {}
    try:
        both = Projects(settings.livekit, settings.live)
        alone = Projects(LiveKitSettings(url="", api_key="", api_secret=SecretStr("")), settings.live)
        readable = file.stat().st_mode & 0o077
    except (ProjectsInvalid, OSError) as error:
        findings.broken("projects", str(error), "correct the file that BUTAI_LIVEKIT_PROJECTS_FILE names")
        return {}
    if readable:
        findings.warn("projects", f"{file} is readable by others, and holds secrets", f"chmod 600 {file}")
    else:
        findings.ok("projects", ", ".join(both.names))
    return {name: alone.get(name) for name in alone.names}


async def _examine_environment(settings: Settings, findings: Findings) -> None:
    of = settings.livekit
    secret = of.api_secret.get_secret_value()
    if not of.url:
        findings.warn(
            "configured",
            "not configured: going live is off",
            "export LIVEKIT_URL=wss://… LIVEKIT_API_KEY=… LIVEKIT_API_SECRET=…",
        )
        return
    parts = urlsplit(of.url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        findings.broken("configured", f"LIVEKIT_URL is {of.url}", "begin it with wss:// (or ws://)")
        return
    missing = [name for name, value in (("LIVEKIT_API_KEY", of.api_key), ("LIVEKIT_API_SECRET", secret)) if not value]
    if missing:
        findings.broken("configured", f"{' and '.join(missing)} not set", f"export {'=… '.join(missing)}=…")
        return
    await _examine(findings, _ENVIRONMENT, of.url, LiveKitKey(of.api_key, secret))


async def _examine(findings: Findings, place: _Place, url: str, key: LiveKitKey, *, spare: bool = False) -> None:
    """Checks one key. `spare`: a key that signs nothing (yet, or any more)."""
    parts = urlsplit(url)
    address = f"{_SCHEMES[parts.scheme]}://{parts.netloc}{parts.path.rstrip('/')}/twirp/livekit.RoomService/ListRooms"
    headers = {"Authorization": f"Bearer {token(key.api_key, key.api_secret)}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession() as http:
        answer = await send(http, "POST", address, headers=headers, body=b"{}")
    if not answer.status:
        findings.broken(
            f"reachable{place.whose}",
            f"{url} does not answer: {answer.trouble}",
            f"check {place.url}, that LiveKit runs there, and the firewall in between",
        )
    elif answer.status == 200 and answer.body.lstrip().startswith(b"{"):
        findings.ok(f"reachable{place.whose}", url)
        findings.ok(f"key{place.whose}", "accepted")
    elif answer.status in (401, 403):
        findings.ok(f"reachable{place.whose}", url)
        off = abs(answer.skew or 0.0)
        said = f"refused: {answer.status}" + (f"; its clock is {off:.0f} s from this machine's" if off > 30 else "")
        if spare and off <= 30:
            findings.warn(
                f"key{place.whose}",
                f"{said}; tokens that it signed are accepted here, and not by LiveKit",
                f"remove {place.key}, or add it to LiveKit before it is put first",
            )
        else:
            findings.broken(
                f"key{place.whose}",
                said,
                f"check {place.key} against the server's keys"
                + (", and let chrony or systemd-timesyncd run on both machines" if off > 30 else ""),
            )
    else:
        findings.broken(
            f"reachable{place.whose}",
            f"{url} answers {answer.status}, which LiveKit never does",
            f"check {place.url}: another program listens there",
        )
    if len(key.api_secret) < SHORTEST_SECRET:
        findings.warn(
            f"secret{place.whose}",
            f"{place.secret} has fewer than {SHORTEST_SECRET} characters: an attacker who guesses it controls every room",
            "make new keys: livekit-server generate-keys",
        )


def token(api_key: str, secret: str) -> str:
    """A token that may list rooms for one minute."""
    now = int(time.time())
    claims = {
        "iss": api_key,
        "sub": "butai-doctor",
        "nbf": now - 10,
        "exp": now + 60,
        "video": {"roomList": True},
    }
    with warnings.catch_warnings():
        # joserfc's own warning about short secrets; a finding reports them here.
        warnings.simplefilter("ignore")
        return jwt.encode({"alg": "HS256", "typ": "JWT"}, claims, OctKey.import_key(secret))
