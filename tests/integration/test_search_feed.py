"""The feed of changes and the list agree."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from butai.assets import purge
from butai.database import Database
from tests import files
from tests.conftest import Api
from tests.searches import (
    walk_pages,
)


async def test_who_follows_the_feed_sees_what_the_list_shows(api: Api, database: Database) -> None:
    rng = random.Random(5)
    ids: dict[str, list[str]] = {"alice": [], "bob": []}
    views: dict[str, dict[str, dict[str, Any]]] = {"alice": {}, "bob": {}, "carol": {}}
    places = dict.fromkeys(views, 0)
    purged = 0
    acts = Counter[str]()

    async def follow(user: str) -> None:
        while True:
            path = f"/api/assets/changes?after={places[user]}&limit={rng.choice((1, 3, 500))}"
            status, feed = await api.call("GET", path, user)
            assert status == 200
            for item in feed["assets"]:
                views[user][item["id"]] = item
            for gone in feed["gone"]:
                views[user].pop(gone, None)
            places[user] = feed["next"]
            if not feed["has_more"]:
                return

    async def act(user: str) -> None:
        nonlocal purged
        what = rng.choice(("upload", "publish", "hide", "trash", "restore", "rename", "publish and hide", "purge"))
        acts[what] += 1
        if what == "upload" or not ids[user]:
            status, answer = await api.upload(user, f"vrm/{len(ids[user])}.vrm", files.vrm(len(ids[user])))
            assert status == 200
            ids[user].append(answer["data"]["id"])
            return
        asset = rng.choice(ids[user])
        path = f"/api/assets/{asset}"
        if what in ("publish", "publish and hide"):
            await api.call("PATCH", path, user, json={"visibility": "public"})
        if what in ("hide", "publish and hide"):
            await api.call("PATCH", path, user, json={"visibility": "private"})
        if what == "rename":
            await api.call("PATCH", path, user, json={"display_name": f"n{rng.randrange(99)}", "tags": ["x"]})
        if what == "trash":
            await api.call("DELETE", path, user)
        if what == "restore":
            await api.call("POST", f"{path}/restore", user)
        if what == "purge":
            async with database.transaction() as session:
                purged += await purge.purge(session, UUID(asset), datetime.now(UTC) + timedelta(days=1))

    for _ in range(250):
        await act(rng.choice(("alice", "bob")))
        if rng.random() < 0.3:
            await follow(rng.choice(list(views)))
    assert purged > 2, "nothing was purged, so nothing was tried"
    assert min(acts.values()) > 10
    for user, view in views.items():
        await follow(user)
        listed = {item["id"]: item for item in await walk_pages(api, [("limit", "20")], user)}
        followed = {key: item for key, item in view.items() if item["status"] == "ready"}
        assert followed.keys() == listed.keys()
        for key, item in followed.items():
            assert item == {name: listed[key][name] for name in item}
    assert views["carol"], "carol saw nothing, so nothing was hidden from her"
