"""`butai demo library`: a few files to begin with, for a studio without any.

They are generated here, free for any use, and uploaded as any client would; a second run replaces them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from butai.demo import figure, motion, scenery
from butai.demo.screen import Screen
from butai.demo.service import DemoFailed, Service

USER = "demo"
"""The default user of `/dev/sign-in`."""

FILES: dict[str, Callable[[], bytes]] = {
    "vrm/Aoi.vrm": lambda: figure.avatar(figure.AOI),
    "vrm/Momo.vrm": lambda: figure.avatar(figure.MOMO),
    "animations/Waving.vrma": motion.waving,
    "animations/Swaying.vrma": motion.swaying,
    "bgm/Loop in A minor.wav": scenery.music,
    "hdr/Noon.hdr": scenery.noon,
    "hdr/Dusk.hdr": scenery.dusk,
}


def run(url: str, user: str) -> int:
    """Uploads all of them as `user`. Returns 0, or 1 after printing the reason of a failure."""
    with Screen() as screen:
        try:
            asyncio.run(_fill(url, user, screen))
        except DemoFailed as failure:
            screen.tell(f"[bold red]failed:[/] {failure}")
            return 1
        screen.tell(f"[bold green]Done.[/] Look at them: {url.rstrip('/')}/ (sign in as {user})")
    return 0


async def _fill(url: str, user: str, screen: Screen) -> None:
    async with Service(url) as service:
        await service.sign_in(user)
        for key, make in FILES.items():
            body = await asyncio.to_thread(make)
            await service.upload(key, body)
            screen.tell(f"{key}, {len(body) // 1024} KiB")
