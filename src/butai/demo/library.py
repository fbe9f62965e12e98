"""`butai demo library`: a few files to begin with, for a studio without any.

They are generated here, free for any use, and uploaded as any client would; a second run replaces them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from butai.demo import figure, motion, scenery
from butai.demo.screen import Screen
from butai.demo.service import DemoFailed, Service

USER = "demo"
"""The user whom the link of `butai up` signs in."""

FILES: dict[str, Callable[[], bytes]] = {
    "vrm/Aoi.vrm": lambda: figure.avatar(figure.AOI),
    "vrm/Momo.vrm": lambda: figure.avatar(figure.MOMO),
    "animations/Waving.vrma": motion.waving,
    "animations/Swaying.vrma": motion.swaying,
    "bgm/Loop in A minor.wav": scenery.music,
    "hdr/Noon.hdr": scenery.noon,
    "hdr/Dusk.hdr": scenery.dusk,
}


def run(url: str, data_dir: Path, user: str) -> int:
    """Uploads all of them as `user` to the service whose data is in `data_dir`.

    Returns 0, or 1 after printing the reason of a failure.
    """
    with Screen() as screen:
        try:
            asyncio.run(_fill(url, data_dir, user, screen))
        except DemoFailed as failure:
            screen.tell(f"[bold red]failed:[/] {failure}")
            return 1
        screen.tell(
            f"[bold green]Done.[/] Look at them: {url.rstrip('/')}/ (signed in as {user}: butai sign-in {user})"
        )
    return 0


async def _fill(url: str, data_dir: Path, user: str, screen: Screen) -> None:
    async with Service(url, data_dir) as service:
        await service.sign_in(user)
        for key, make in FILES.items():
            body = await asyncio.to_thread(make)
            await service.upload(key, body)
            screen.tell(f"{key}, {len(body) // 1024} KiB")
