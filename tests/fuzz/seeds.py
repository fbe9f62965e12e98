"""What the fuzzed service holds before the first request, and what fuzzers are told of it.

Without it they would only ever meet 404: no generator guesses a UUID, or writes an avatar.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path

from butai.assets import keys
from tests import files
from tests.conftest import Api

PLAIN_NAMES = ("Aoi", "My Avatar (1) 舞台", "a+b %41&c#d", "é́")
"""As people name files: spaces, brackets, Unicode, and what URLs spell otherwise."""

BAD_KEYS = (
    "vrm/../../etc/passwd.vrm",
    "vrm/%2e%2e/x.vrm",
    "vrm//x.vrm",
    "/vrm/x.vrm",
    "vrm/x\u0000.vrm",
    "vrm/x\r\nSet-Cookie: a=b\r\n.vrm",
    "vrm\\x.vrm",
    "secret/x.vrm",
    "vrm/" + "k" * 10_000 + ".vrm",
    "vrm/" + "漢" * 100 + ".vrm",
    "vrm/" + "a/" * 600 + "x.vrm",
    "vrm/x.exe",
    "vrm/x_meta.json",
    "vrm/.vrm",
    "vrm",
    "",
)

CONTENT = {
    "vrm": files.vrm(7, 500, files.png()),
    "glb": files.glb(),
    "vrma": files.glb(),
    "fbx": files.FBX,
    "bvh": files.BVH,
    "mp3": files.MP3,
    "hdr": files.HDR,
    "png": files.png(),
    "json": b'{"gender": "none", "styleTags": ["test"]}',
}


def content_for(key: str) -> bytes | None:
    """A file that may stand under a key, where we have one of its kind."""
    return CONTENT.get(key.rpartition(".")[2].lower())


WHOLE_ROOM = "fuzz-whole"
"""A room that no request but those for its parts is told of, so that these are still there."""


@dataclass
class Seeds:
    """Ids and keys by what they are good for."""

    assets: list[str] = field(default_factory=list)
    expendable: list[str] = field(default_factory=list)
    readable: list[str] = field(default_factory=list)
    cursors: list[str] = field(default_factory=list)
    rooms: list[str] = field(default_factory=list)
    destinations: list[str] = field(default_factory=list)
    broadcasts: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    invitations: list[str] = field(default_factory=list)
    of_one_room: dict[str, list[str]] = field(default_factory=dict)
    """Ids of what belongs to the room `WHOLE_ROOM`, by dictionary."""

    def write(self, folder: Path) -> None:
        """The dictionaries that `schemathesis.toml` names."""
        writable = [f"vrm/{name}.vrm" for name in PLAIN_NAMES]
        writable += [
            "animations/w.fbx",
            "animations/w.vrma",
            "bgm/w.mp3",
            "hdr/w.hdr",
            "scene/w.glb",
            "vrm/w_thumb.png",
        ]
        urls = [f"{base}{keys.read_url(key)}" for key in self.readable for base in ("", "{base}")]
        bad_urls = ["http://169.254.169.254/latest/meta-data", "//evil.example/api/s3/read-object?key=vrm/a.vrm", "["]
        for name, words in {
            "assets": self.assets,
            "expendable": self.expendable,
            "readable": [*self.readable, *BAD_KEYS],
            "writable": [*writable * 3, *BAD_KEYS],
            "urls": [*urls, *bad_urls],
            "cursors": [*self.cursors, "e30", "WyJjcmVhdGVkX2F0Il0"],
            "rooms": self.rooms,
            "destinations": self.destinations,
            "broadcasts": self.broadcasts,
            "outputs": self.outputs,
            "uploads": self.uploads[:12],
            "expendable_uploads": self.uploads[12:],
            "invitations": [*self.invitations, "e30.e30.e30"],
            "whole_room": [WHOLE_ROOM],
            **self.of_one_room,
            "ingests": ["rtmp://127.0.0.1:9/live", "rtmps://127.0.0.1:9/live2?backup=1"],
            "words": ["A", "aoi", "舞台", "%", "_", "\\", "'", "a" * 200, ""],
        }.items():
            (folder / f"{name}.dict").write_text("".join(f"{_quoted(word)}\n" for word in words), encoding="utf-8")


def _quoted(text: str) -> str:
    """A word as libFuzzer's dictionaries have it."""
    return '"' + "".join(f"\\x{ord(c):02x}" if ord(c) < 32 or c in '"\\' else c for c in text) + '"'


async def plant(api: Api) -> Seeds:
    """Uploads them: alice's and bob's, public, private, trashed, with pictures and sidecars."""
    seeds = Seeds()

    async def upload(user: str, key: str, body: bytes, *, public: bool = False) -> str:
        status, answer = await api.upload(user, key, body)
        assert status == 200, answer
        asset_id: str = answer["data"]["id"]
        if public:
            how = {"visibility": "public", "display_name": key}
            status, edited = await api.call("PATCH", f"/api/assets/{asset_id}", user, json=how)
            assert status == 200, edited
        seeds.readable.append(answer["data"]["s3Key"])
        return asset_id

    for number, name in enumerate(PLAIN_NAMES):
        key = f"vrm/{name}.vrm"
        seeds.assets.append(await upload("alice", key, files.vrm(number, 300, files.png()), public=number == 0))
    for number in range(2):
        seeds.assets.append(await upload("bob", f"vrm/Bob{number}.vrm", files.vrm(number), public=number == 0))
    old = files.vrm(9, 300, files.png(), version="0.x")
    seeds.assets.append(await upload("alice", "models/old.vrm", old, public=True))
    seeds.assets.append(await upload("alice", "animations/walk.fbx", files.FBX))
    seeds.assets.append(await upload("alice", "bgm/song.mp3", files.MP3, public=True))
    seeds.assets.append(await upload("alice", "hdr/sky.hdr", files.HDR))
    await upload("alice", "vrm/Aoi_thumb.png", files.png())
    await upload("alice", "vrm/Aoi_meta.json", CONTENT["json"])
    for number in range(12):
        seeds.expendable.append(await upload("alice", f"scene/gone{number}.glb", files.glb()))
    for asset_id in seeds.expendable[:4]:
        assert (await api.call("DELETE", f"/api/assets/{asset_id}", "alice"))[0] == 204
    seeds.assets += seeds.expendable[:2]
    # A signed upload whose bytes have arrived: nobody has said so yet.
    wanted = {"fileName": "vrm/signed.vrm", "fileType": "model/vrm"}
    status, signed = await api.call("POST", "/api/s3/presigned-url", "alice", json=wanted)
    assert status == 200, signed
    async with api.client.put(signed["data"]["url"], data=files.vrm(3)) as answer:
        assert answer.status == 200
    seeds.assets.append(signed["data"]["id"])
    for number in range(24):
        name = base64.b64encode(f"scene/part{number}.glb".encode()).decode()
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "10000000", "Upload-Metadata": f"filename {name}"}
        headers |= api.cookie("alice")
        async with api.client.post(f"{api.url}/api/assets/uploads", headers=headers) as answer:
            assert answer.status == 201
            seeds.uploads.append(answer.headers["Location"].rpartition("/")[2])
    await _stage(api, seeds)
    for query in ("pageSize=1", "pageSize=1&sort=size_bytes", "pageSize=2&sort=-display_name"):
        status, page = await api.call("GET", f"/api/s3/resources?type=vrm&{query}", "alice")
        assert status == 200
        seeds.cursors.append(page["pagination"]["nextCursor"])
    return seeds


async def _stage(api: Api, seeds: Seeds) -> None:
    """alice's rooms, one of them on air to two destinations."""
    for number in range(4):
        status, destination = await api.call(
            "POST",
            "/api/live/destinations",
            "alice",
            json={
                "platform": "custom" if number > 1 else ("youtube", "twitch")[number],
                "stream_key": f"key-{number}",
                "ingest_url": "rtmp://127.0.0.1:9/live",
            },
        )
        assert status == 201, destination
        seeds.destinations.append(destination["id"])
    for number in range(20):
        status, room = await api.call("POST", "/api/live/rooms", "alice", json={"room_id": f"fuzz-{number}"})
        assert status == 200, room
        seeds.rooms.append(room["room_id"])
    for room_id in seeds.rooms[:3]:
        status, made = await api.call("POST", f"/api/live/rooms/{room_id}/tokens", "alice", json={"role": "viewer"})
        assert status == 200, made
        seeds.invitations.append(made["token"])
        wanted = {"room_id": room_id, "platforms": "both"}
        status, begun = await api.call("POST", "/api/live/start", "alice", json=wanted)
        assert status == 201, begun
        seeds.broadcasts.append(begun["session_id"])
        seeds.outputs += [output["id"] for output in begun["outputs"]]
    assert (await api.call("POST", "/api/live/rooms", "alice", json={"room_id": WHOLE_ROOM}))[0] == 200
    for part, name, body in (
        ("invitations", "invitation_id", {}),
        ("ingress", "ingress_id", {"kind": "whip"}),
        ("encoders", "encoder_id", {}),
    ):
        ids = seeds.of_one_room[f"{name}s"] = []
        for _ in range(4):
            status, made = await api.call("POST", f"/api/live/rooms/{WHOLE_ROOM}/{part}", "alice", json=body)
            assert status == 201, made
            ids.append(made[name])


def users_file(credentials: dict[str, dict[str, str]]) -> str:
    """Users and their headers, in the form of Web Fuzzing Commons."""
    return json.dumps(
        {
            "auth": [
                {"name": user, "fixedHeaders": [{"name": name, "value": value} for name, value in headers.items()]}
                for user, headers in credentials.items()
            ]
        }
    )
