"""Development sign-in over HTTP: the page that a link of `butai sign-in` opens, and the exchange of its code for a session.

The code stands behind `#`, which no browser sends: it reaches no log and no proxy. The page posts it. Installed by
`butai.api`; both are absent (404) unless `BUTAI_DEV_SIGN_IN` is on and the caller is on this machine.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, Field

from butai.config import Settings
from butai.database import Database
from butai.errors import NotFound, RateLimited, SignInCodeInvalid
from butai.identity import NEXTAUTH_COOKIE, check_dev_sign_in, check_origin, dev_sign_in_cookie
from butai.identity.origins import seen_origin
from butai.identity.sessions import SESSION_SECONDS
from butai.identity.suspensions import refuse_suspended
from butai.limits.token_bucket import TokenBucket
from butai.sign_in.codes import CODE_SECONDS, FolderUnsafe, open_folder, read_code, take_code
from butai.web import problems
from butai.web.bodies import SmallBodies, before_body

log = structlog.get_logger(__name__)

GUESSES = 20
"""Codes at once, and in a minute, that this process looks for. A person who pastes an old link needs a few. A code has 192
bits: the bound keeps guesses from costing anything, not from hitting."""


class SignInCode(BaseModel):
    """What stands behind `#` in a link of `butai sign-in`."""

    code: Annotated[str, Field(min_length=1, max_length=200, examples=["8hY2…"])]


def install(app: FastAPI) -> None:
    """Serves the page at `/sign-in` and takes codes at `POST /api/session`."""
    router = APIRouter(route_class=SmallBodies)
    guesses = TokenBucket(GUESSES / 60, 60)

    @router.api_route("/sign-in", methods=["GET", "HEAD"], include_in_schema=False)
    async def sign_in_page(request: Request) -> Response:
        """The page. It changes nothing by itself: its script posts the code."""
        _check(request)
        return HTMLResponse(_PAGE, headers=HEADERS)

    @router.post(
        "/api/session",
        tags=["process"],
        summary="Sign in for development, from this machine only",
        response_class=RedirectResponse,
        status_code=303,
        responses=problems.documented(400, 403, 404, 429),
        openapi_extra={"security": []},
    )
    async def sign_in(request: Request, given: SignInCode, _: Annotated[None, Depends(_from_here)]) -> Response:
        """Takes a code of `butai up` or `butai sign-in`, sets a session cookie and leads to `/`. A code works once, within
        ten minutes of its making; that of a suspended user is not used up. There is no such path unless `BUTAI_DEV_SIGN_IN`
        is on and the caller is on this machine."""
        settings: Settings = request.state.settings
        if (wait := guesses.try_take(time.monotonic())) > 0:
            raise RateLimited("Too many codes; wait, then try again", math.ceil(wait))
        user = await _user(read_code, settings.up.data_dir, given.code)
        guesses.give_back()
        # First, since it refuses what no user id can be.
        cookie = dev_sign_in_cookie(settings.identity, user)
        database: Database = request.state.database
        await refuse_suspended(database, user)
        # Last, so that a refused code is not used up: it is good once the user is restored, or Postgres answers.
        await _user(take_code, settings.up.data_dir, given.code)
        log.info("sign_in.done", user=user)
        answer = RedirectResponse("/", 303, {"cache-control": "no-store"})
        answer.set_cookie(NEXTAUTH_COOKIE, cookie, httponly=True, samesite="lax", max_age=SESSION_SECONDS)
        return answer

    app.include_router(router)


def open_codes(data_dir: Path) -> None:
    """Makes the folder where `butai sign-in` leaves its codes. One that cannot be used is logged, and no code is taken."""
    try:
        open_folder(data_dir)
    except (FolderUnsafe, OSError) as error:
        log.error("sign_in.folder_unusable", reason=str(error))


async def _user(read: Callable[[Path, str], str | None], data_dir: Path, code: str) -> str:
    try:
        user = await asyncio.to_thread(read, data_dir, code)
    except (FolderUnsafe, OSError) as error:
        log.error("sign_in.folder_unusable", reason=str(error))
        raise NotFound from None
    if user is None:
        log.warning("sign_in.refused")
        raise SignInCodeInvalid
    return user


@before_body
async def _from_here(request: Request) -> None:
    """Raises `OriginDenied` for a post from another site, `NotFound` for a caller elsewhere."""
    headers = request.scope["headers"]
    own = seen_origin(request.scope["scheme"], headers)
    check_origin("POST", headers, (), [own] if own else [])
    _check(request)


def _check(request: Request) -> None:
    settings: Settings = request.state.settings
    check_dev_sign_in(settings.identity, request.client.host if request.client else None, request.scope["headers"])


_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 34rem; margin: 4rem auto; padding: 0 1rem }
code { font: 15px ui-monospace, monospace }
"""

_SCRIPT = """
const zh = navigator.language.startsWith("zh");
const say = (en, cn, command = "butai sign-in") => {
  document.getElementById("said").textContent = zh ? cn : en;
  document.querySelector("code").textContent = command;
};
document.documentElement.lang = zh ? "zh" : "en";
const code = location.hash.slice(1);
// Out of the address bar and the history.
history.replaceState(null, "", location.pathname);
async function enter() {
  if (!code) {
    say("This link has no code. Make a new one in a terminal on this machine:",
        "此链接没有登录码。请在本机终端中生成新的链接：");
    return;
  }
  say("Signing in…", "正在登录…");
  try {
    const answer = await fetch("/api/session", {
      method: "POST", redirect: "manual", headers: {"content-type": "application/json"}, body: JSON.stringify({code}),
    });
    // The redirect has set the cookie; where it leads is followed by the page, not by the call.
    if (answer.type === "opaqueredirect") { location.replace("/"); return; }
    const said = answer.ok ? {} : await answer.json().catch(() => ({}));
    if (said.code === "user_suspended") {
      say("This account is suspended. Restore it in a terminal on this machine, then open the link again:",
          "该账号已被停用。请在本机终端中恢复，再打开该链接：", "butai restore USER");
    }
    else if (answer.status === 429) say("Too many wrong codes: wait a minute, then open the link again.",
                                   "错误的登录码过多，请稍候一分钟，再打开该链接。");
    else if (answer.status >= 500) say("The service cannot sign you in now. Try the link again later, or see what is wrong:",
                                       "服务暂时无法登录。请稍后再打开该链接，或查看原因：", "butai doctor");
    else say("This link is used or too old. Make a new one in a terminal on this machine:",
             "此链接已使用或已过期。请在本机终端中生成新的链接：");
  } catch {
    say("The service does not answer. Start it again, then make a new link:", "服务没有响应。请重新启动，再生成新的链接：");
  }
}
// A new link that is opened in the same tab changes only what stands behind #.
addEventListener("hashchange", () => location.reload());
void enter();
"""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
}
"""What the page is sent with."""

_PAGE = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Butai</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">
<style>{_STYLE}</style>
<h1>Butai 舞台</h1>
<p id="said" role="status">Links work once, for {CODE_SECONDS / 60:.0f} minutes.</p>
<p><code>butai sign-in</code></p>
<noscript><p>This page needs JavaScript.</p></noscript>
<script>{_SCRIPT}</script></html>"""
