"""A participant that speaks LiveKit's signalling and no media: what LiveKit tells it, and the token that it renews."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

import aiohttp
import jwt
from livekit.protocol import models, rtc


class Member:
    """Joins `url` with `token`. `async with Member(url, token) as member:`; raises `PermissionError` if not let in."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url.replace("ws", "http", 1), token
        self._renewed: list[str] = []
        self._told = asyncio.Condition()
        self._left: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        try:
            query = {"access_token": self._token, "auto_subscribe": "0", "protocol": "15", "sdk": "go"}
            self._socket = await self._session.ws_connect(f"{self._url}/rtc", params=query)
        except aiohttp.WSServerHandshakeError as refused:
            await self._session.close()
            raise PermissionError(refused.status) from None
        self._reader = asyncio.create_task(self._read())
        async with asyncio.timeout(60):
            await self._joined
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.cancel()
        await self._session.close()

    @property
    def identity(self) -> str:
        """Of its token."""
        return jwt.decode(self._token, options={"verify_signature": False})["sub"]

    @property
    def is_removed(self) -> bool:
        """Whether LiveKit has ended it."""
        return self._left.done()

    async def renewed(self, fits: Callable[[str], bool] = lambda _: True) -> str:
        """The newest token that LiveKit hands out in place of the one it was let in with; waits for one that `fits`."""
        async with asyncio.timeout(60), self._told:
            await self._told.wait_for(lambda: self._renewed and fits(self._renewed[-1]))
            return self._renewed[-1]

    async def removed(self) -> str:
        """Waits until LiveKit ends it; the name of its reason."""
        async with asyncio.timeout(60):
            return await asyncio.shield(self._left)

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.BINARY:
                continue
            said = rtc.SignalResponse.FromString(message.data)
            kind = said.WhichOneof("message")
            if kind == "join" and not self._joined.done():
                self._joined.set_result(None)
            elif kind == "refresh_token":
                async with self._told:
                    self._renewed.append(said.refresh_token)
                    self._told.notify_all()
            elif kind == "leave" and not self._left.done():
                self._left.set_result(models.DisconnectReason.Name(said.leave.reason))
        if not self._left.done():
            self._left.set_result("CLOSED")
