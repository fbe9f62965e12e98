"""Prints the summary of `butai up` once it is ready: addresses, first steps, and what is not configured."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from butai.cli.sign_in import link
from butai.config import Settings
from butai.sign_in.codes import CODE_SECONDS


@dataclass(frozen=True)
class Running:
    """The running services. `code` signs in as `demo`; it is empty when the development sign-in is off. `console_built`:
    whether there are pages, of which `/docs` is one. `livekit_url` is empty when going live is off; `livekit_missing` then
    gives the reason."""

    url: str
    folder: Path
    logs: Path
    code: str
    console_built: bool
    livekit_url: str
    livekit_missing: str = ""


def introduction(settings: Settings, running: Running, seconds: float) -> str:
    """The whole text. `seconds`: from the start to now."""
    url = running.url
    lines = [
        "",
        f"Ready in {seconds:.1f} s.",
        f"  Console    {url}/" if running.console_built else "  Console    is not built: make console",
        f"  API        {url}",
        f"  Docs       {url}{'/docs' if running.console_built else '/openapi.json'}",
        f"  Metrics    {url}/metrics",
        f"  Logs       {running.logs}",
    ]
    if running.livekit_url:
        file = settings.live.livekit_projects_file
        more = f" (default), and those of {file}" if file else ""
        lines.append(f"  LiveKit    {running.livekit_url}{more}")
    here = _folder(running)
    if running.code:
        jar = shlex.quote(str(running.folder / "demo.cookies"))
        code = f"{_command()} sign-in {here}--json demo"
        take = f"curl -sS -o /dev/null -c {jar} -H 'Content-Type: application/json' -d @- {url}/api/session"
        lines += [
            f"  Sign in    {link(url, running.code)}",
            f"             works once, within {CODE_SECONDS / 60:.0f} minutes, in a browser on this machine",
            "             for another browser, or another user (operator sees the operations):",
            f"    {_command()} sign-in {here}USER",
            "  Files      none yet? Avatars, motions, music and skies to begin with, in another terminal:",
            f"    {_command()} demo library --url {url} {here}".rstrip(),
            "  Upload     with any avatar.vrm:",
            f"    {code} | {take}",
            f"    curl -b {jar} -F file=@avatar.vrm -F fileName=vrm/avatar.vrm -F fileType=model/vrm {url}/api/s3/upload",
            f"    curl -b {jar} '{url}/api/s3/resources?type=vrm'",
        ]
    if running.livekit_url:
        lines.append("  Go live    POST /api/live/rooms, /api/live/destinations, /api/live/start (see Docs)")
        if running.code:
            lines += [
                "             to see a broadcast to two platforms on this machine, in another terminal:",
                f"    {_command()} demo live --url {url} {here}".rstrip(),
            ]
    missing = _missing(settings, running)
    if missing:
        lines.append("Not configured (set these, then start again)")
        lines += [f"  {name:10} {what}: export {how}" for name, what, how in missing]
    lines.append("Ctrl-C ends it.")
    return "\n".join(lines)


def _missing(settings: Settings, running: Running) -> list[tuple[str, str, str]]:
    """What is missing, its consequence, and the line that configures it."""
    found: list[tuple[str, str, str]] = []
    identity = settings.identity
    if not identity.nextauth_secret.get_secret_value() and not identity.authjs_secrets:
        found.append(("sessions", "those of your studio are not accepted", "NEXTAUTH_SECRET='the one of your studio'"))
    if not identity.oidc_issuer:
        found.append(("tokens", "no OpenID Connect issuer", "BUTAI_OIDC_ISSUER=https://… BUTAI_OIDC_AUDIENCE=butai"))
    if not settings.http.cors_origins:
        found.append(
            ("origins", "no other site may call with cookies", "BUTAI_CORS_ORIGINS='[\"http://localhost:3000\"]'")
        )
    if not settings.livekit.url:
        what = running.livekit_missing or "the included one, which only this machine reaches"
        found.append(("LiveKit", what, "LIVEKIT_URL=wss://… LIVEKIT_API_KEY=… LIVEKIT_API_SECRET=…"))
    return found


def _folder(running: Running) -> str:
    """The option that names the data folder, where it is not what a command finds by itself."""
    default = Path(os.environ.get("BUTAI_DATA_DIR") or ".butai").expanduser().absolute()
    return "" if running.folder == default else f"--data-dir {shlex.quote(str(running.folder))} "


def _command() -> str:
    """The shortest command that starts `butai` in this shell."""
    program = Path(sys.prefix) / "bin" / "butai"
    if not program.exists():
        return f"{shlex.quote(sys.executable)} -m butai.cli"
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    return shlex.quote(str(program))
