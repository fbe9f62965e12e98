"""The attacks of `starved.py`: each by one account, from one address of loopback, in a process of its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from urllib.parse import quote, urlsplit

import aiohttp
import av
import numpy as np
import servers
from harness import HERE, Failed

sys.path.insert(0, str(HERE.parent))
from tests.files import glb

ATTACKER = "127.0.0.2"
LIST = "/api/s3/resources?type=vrm&pageSize=20"
JSON_BYTES = 820 * 1024
SILENT, SLOW, THUMBNAILS, SOUNDS, UPLOADS, NAMES, KEYS, STREAMS = 1000, 300, 8, 10, 20, 10, 8, 50
SOUND_SECONDS = 7000
"""Of each silent sound: a little less than the two hours that are the most."""


@dataclass
class Attacker:
    """The attacker's side of one run. `begun` is to be called when the attack is under way."""

    origin: str
    http: aiohttp.ClientSession
    begun: Callable[[], None]

    async def post(self, path: str, body: object) -> dict[str, str]:
        async with self.http.post(self.origin + path, json=body) as answer:
            if answer.status not in (200, 201):
                raise Failed(f"{path}: {answer.status} {await answer.text()}")
            return await answer.json()

    async def upload(self, key: str, body: bytes) -> None:
        form = aiohttp.FormData({"fileName": key, "fileType": "application/octet-stream"})
        form.add_field("file", io.BytesIO(body), filename="upload.bin")
        async with self.http.post(f"{self.origin}/api/s3/upload", data=form) as answer:
            if answer.status != 200:
                raise Failed(f"{key}: {answer.status} {await answer.text()}")

    async def repeat(self, times: int, act: Callable[[int], Awaitable[object]]) -> None:
        """Has `times` of them act again and again, whatever is answered, until the run ends."""

        async def one(number: int) -> None:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    await act(number)

        self.begun()
        await asyncio.gather(*(one(number) for number in range(times)))

    async def get(self, path: str, **headers: str) -> None:
        async with self.http.get(self.origin + path, headers=headers) as answer:
            await answer.read()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.origin)
        return await asyncio.open_connection(parts.hostname, parts.port, local_addr=(ATTACKER, 0))


async def silent_sockets(attacker: Attacker) -> None:
    """Connections that send nothing; those that are closed are replaced."""

    async def hold(_: int) -> None:
        reader, writer = await attacker.connect()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    await attacker.repeat(SILENT, hold)


async def slow_bodies(attacker: Attacker) -> None:
    """Uploads that send a byte ten times a second."""
    cookie = servers.cookie("attacker")["Cookie"]
    head = (
        f"POST /api/s3/upload HTTP/1.1\r\nHost: {urlsplit(attacker.origin).netloc}\r\nCookie: {cookie}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n--x\r\n"
    )

    async def drip(_: int) -> None:
        reader, writer = await attacker.connect()
        with contextlib.suppress(ConnectionError):
            writer.write(head.encode())
            while not reader.at_eof():
                writer.write(b"C")
                await writer.drain()
                await asyncio.sleep(0.1)
        writer.close()

    await attacker.repeat(SLOW, drip)


async def thumbnails(attacker: Attacker) -> None:
    """The picture of an avatar whose JSON has 820 KiB, which parsing would take many milliseconds of."""
    nodes = [{"name": f"node {number}", "translation": [number, 0.5, 0.25]} for number in range(JSON_BYTES // 61)]
    key = f"vrm/heavy {time.time_ns()}.vrm"
    document: dict[str, object] = {
        "asset": {"version": "2.0"},
        "nodes": nodes,
        "extensions": {"VRMC_vrm": {"meta": {}}},
    }
    await attacker.upload(key, glb(document))
    read = quote(f"/api/s3/read-object?key={quote(key, safe='')}", safe="")
    await attacker.repeat(THUMBNAILS, lambda _: attacker.get(f"/api/vrm-thumbnail?url={read}"))


async def silent_sounds(attacker: Attacker) -> None:
    """Ten FLACs of two hours, each of some kilobytes; the worker decodes them."""
    body = await asyncio.to_thread(silent_flac, SOUND_SECONDS)
    attacker.begun()
    for number in range(SOUNDS):
        await attacker.upload(f"bgm/silence {time.time_ns()} {number}.flac", body)
    await asyncio.Event().wait()


async def tiny_pieces(attacker: Attacker) -> None:
    """Resumable uploads that grow by a byte with each request."""
    paths: list[str] = []
    for number in range(UPLOADS):
        name = base64.b64encode(f"scene/tiny {time.time_ns()} {number}.glb".encode()).decode()
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "1000000", "Upload-Metadata": f"filename {name}"}
        async with attacker.http.post(f"{attacker.origin}/api/assets/uploads", headers=headers) as answer:
            if answer.status != 201:
                raise Failed(f"uploads: {answer.status} {await answer.text()}")
            paths.append(answer.headers["Location"])
    offsets = [0] * UPLOADS

    async def grow(number: int) -> None:
        headers = {
            "Tus-Resumable": "1.0.0",
            "Content-Type": "application/offset+octet-stream",
            "Upload-Offset": str(offsets[number]),
        }
        path = urlsplit(paths[number]).path
        async with attacker.http.patch(attacker.origin + path, headers=headers, data=b"g") as answer:
            await answer.read()
            offsets[number] = int(answer.headers.get("Upload-Offset", offsets[number]))

    await attacker.repeat(UPLOADS, grow)


async def unresolved_names(attacker: Attacker) -> None:
    """Destinations whose names no server knows: made, tested and removed."""

    async def make(number: int) -> None:
        name = f"n{time.time_ns()}-{number}.invalid"
        asked = {"platform": "custom", "ingest_url": f"rtmp://{name}/live", "stream_key": "k"}
        async with attacker.http.post(f"{attacker.origin}/api/live/destinations", json=asked) as answer:
            made = await answer.json()
        if "id" in made:
            path = f"{attacker.origin}/api/live/destinations/{made['id']}"
            async with attacker.http.post(f"{path}/test") as answer:
                await answer.read()
            async with attacker.http.delete(path) as answer:
                await answer.read()

    await attacker.repeat(NAMES, make)


async def wrong_keys(attacker: Attacker) -> None:
    """API keys of the right form that are none, another one each time."""
    dice = random.Random(time.time_ns())

    async def guess(_: int) -> None:
        key = f"butai_{dice.randbytes(8).hex()}_{dice.randbytes(32).hex()}"
        await attacker.get(LIST, Authorization=f"Bearer {key}", Cookie="")

    await attacker.repeat(KEYS, guess)


async def event_streams(attacker: Attacker) -> None:
    """As many event streams of a broadcast as one user may have, and further ones, which are refused."""
    await attacker.repeat(STREAMS + 10, lambda _: attacker.get("/api/live/events?room_id=attacked"))


ATTACKS = {
    "silent sockets": silent_sockets,
    "slow bodies": slow_bodies,
    "thumbnails": thumbnails,
    "silent sounds": silent_sounds,
    "tiny pieces": tiny_pieces,
    "unresolved names": unresolved_names,
    "wrong keys": wrong_keys,
    "event streams": event_streams,
}


def silent_flac(seconds: int) -> bytes:
    """A silent sound as FLAC, which compresses silence to almost nothing."""
    made = io.BytesIO()
    with av.open(made, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=8000)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono"
        silence = np.zeros((1, 8000 * 10), dtype=np.int16)
        for number in range(seconds // 10):
            frame = av.AudioFrame.from_ndarray(silence, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8000, number * 80_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return made.getvalue()


def attack(name: str, origin: str, begun: Event, seconds: float) -> None:
    """The attacker's process: ends after so many seconds at the latest, or when it is terminated."""

    async def run() -> None:
        connector = aiohttp.TCPConnector(limit=0, local_addr=(ATTACKER, 0))
        async with aiohttp.ClientSession(connector=connector, headers=servers.cookie("attacker")) as http:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await ATTACKS[name](Attacker(origin, http, begun.set))

    asyncio.run(run())
