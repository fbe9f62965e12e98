"""Whether LiveKit is there and takes our key. Part of `butai doctor`.

Asked as its own clients ask (Twirp, RoomService/ListRooms), with a token of one minute that may list rooms and nothing
else. Source: LiveKit, "Server APIs" and "Authentication".
"""

from __future__ import annotations

import time
import warnings
from urllib.parse import urlsplit

import aiohttp
from joserfc import jwt
from joserfc.jwk import OctKey

from butai.config import Settings
from butai.doctor.asking import send
from butai.doctor.findings import Findings
from butai.live.projects import DEFAULT, Projects, ProjectsInvalid

SHORTEST_SECRET = 32
"""Characters: below it LiveKit itself refuses to start, but for its --dev mode."""

_SCHEMES = {"ws": "http", "wss": "https", "http": "http", "https": "https"}


async def examine_livekit(settings: Settings, findings: Findings) -> None:
    """Adds findings; raises nothing that a server does."""
    of = settings.livekit
    secret = of.api_secret.get_secret_value()
    if not of.url and settings.live.livekit_projects_file is not None:
        await _examine_file(settings, findings)
        return
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
    await _examine(findings, "", of.url, of.api_key, secret)
    await _examine_file(settings, findings)


async def _examine_file(settings: Settings, findings: Findings) -> None:
    """The projects of `BUTAI_LIVEKIT_PROJECTS_FILE`, with all of their keys: one that is on its way out counts, too."""
    file = settings.live.livekit_projects_file
    if file is None:
        return
    try:
        projects = Projects(settings.livekit, settings.live)
        readable = file.stat().st_mode & 0o077
    except (ProjectsInvalid, OSError) as error:
        findings.broken("projects", str(error), "mend the file that BUTAI_LIVEKIT_PROJECTS_FILE names")
        return
    if readable:
        findings.warn("projects", f"{file} is readable by others, and holds secrets", f"chmod 600 {file}")
    for name in projects.names:
        project = projects.get(name)
        for number, key in enumerate(project.keys):
            if (name, key.api_key) == (DEFAULT, settings.livekit.api_key) and project.url == settings.livekit.url:
                continue
            label = name if number == 0 else f"{name}, key {number + 1}"
            await _examine(findings, f" of {label}", project.url, key.api_key, key.api_secret)


async def _examine(findings: Findings, whose: str, url: str, api_key: str, secret: str) -> None:
    """`whose`: behind the name of each finding; empty for the project of the environment."""
    parts = urlsplit(url)
    address = f"{_SCHEMES[parts.scheme]}://{parts.netloc}{parts.path.rstrip('/')}/twirp/livekit.RoomService/ListRooms"
    headers = {"Authorization": f"Bearer {token(api_key, secret)}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession() as http:
        answer = await send(http, "POST", address, headers=headers, body=b"{}")
    if not answer.status:
        findings.broken(
            f"reachable{whose}",
            f"{url} does not answer: {answer.trouble}",
            "check LIVEKIT_URL, that LiveKit runs there, and the firewall in between",
        )
    elif answer.status == 200 and answer.body.lstrip().startswith(b"{"):
        findings.ok(f"reachable{whose}", url)
        findings.ok(f"key{whose}", "accepted")
    elif answer.status in (401, 403):
        findings.ok(f"reachable{whose}", url)
        off = abs(answer.skew or 0.0)
        findings.broken(
            f"key{whose}",
            f"refused: {answer.status}" + (f"; its clock is {off:.0f} s from this machine's" if off > 30 else ""),
            "check LIVEKIT_API_KEY and LIVEKIT_API_SECRET against the server's keys"
            + (", and let chrony or systemd-timesyncd run on both machines" if off > 30 else ""),
        )
    else:
        findings.broken(
            f"reachable{whose}",
            f"{url} answers {answer.status}, which LiveKit does not",
            "check LIVEKIT_URL: something else listens there",
        )
    if len(secret) < SHORTEST_SECRET:
        findings.warn(
            f"secret{whose}",
            f"LIVEKIT_API_SECRET has fewer than {SHORTEST_SECRET} characters: whoever guesses it controls every room",
            "make new keys: livekit-server generate-keys",
        )


def token(api_key: str, secret: str) -> str:
    """A token that lists rooms for one minute."""
    now = int(time.time())
    claims = {
        "iss": api_key,
        "sub": "butai-doctor",
        "nbf": now - 10,
        "exp": now + 60,
        "video": {"roomList": True},
    }
    with warnings.catch_warnings():
        # joserfc's own word on short secrets; ours is a finding.
        warnings.simplefilter("ignore")
        return jwt.encode({"alg": "HS256", "typ": "JWT"}, claims, OctKey.import_key(secret))
