"""Keys in the wrong field of a destination, and the addresses that servers document, over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from butai.config import Settings
from butai.database import Database
from butai.live.stream_keys import Sealer
from butai.relay.rtmp.hidden import complete
from tests.conftest import Api, serving
from tests.live_api import CANARY, go_live, make_room, save, sql

KICK = "rtmps://fa723fc1b171.global-contribute.live-video.net"


@pytest.fixture
async def api(live_settings: Settings) -> AsyncIterator[Api]:
    async with serving(live_settings) as running:
        yield running


async def _stored(api: Api, database: Database) -> tuple[str, str]:
    """The whole address and the key of the newest destination."""
    ((url, sealed),) = await sql(
        database, "SELECT ingest_url, sealed_key FROM destinations ORDER BY created_at DESC LIMIT 1"
    )
    return complete(url, Sealer(api.settings.live).open(sealed))


@pytest.mark.parametrize(
    ("wanted", "url", "key"),
    [
        # MediaMTX's documentation: the server alone names the stream, and the key stays empty.
        ({"ingest_url": "rtmp://127.0.0.1/mystream", "stream_key": ""}, "rtmp://127.0.0.1/mystream", ""),
        (
            {"ingest_url": f"rtmp://127.0.0.1/mystream?user=me&pass={CANARY}", "stream_key": ""},
            f"rtmp://127.0.0.1/mystream?user=me&pass={CANARY}",
            "",
        ),
        ({"ingest_url": "rtmp://127.0.0.1", "stream_key": CANARY}, "rtmp://127.0.0.1", CANARY),
        ({"ingest_url": KICK, "stream_key": f"sk_us-west-2_{CANARY}"}, KICK, f"sk_us-west-2_{CANARY}"),
        ({"stream_key": CANARY + "k" * (2000 - len(CANARY))}, "", CANARY + "k" * (2000 - len(CANARY))),
        # With what comes along when it is copied.
        (
            {"ingest_url": " RTMP://127.0.0.1/live\n", "stream_key": f"{CANARY[:9]}\u200b{CANARY[9:]}\u00a0\r\n"},
            "rtmp://127.0.0.1/live",
            CANARY,
        ),
        # In the wrong field.
        ({"ingest_url": f"rtmp://127.0.0.1/live/{CANARY}", "stream_key": ""}, "rtmp://127.0.0.1/live", CANARY),
        ({"ingest_url": f"rtmp://127.0.0.1/live/{CANARY}", "stream_key": CANARY}, "rtmp://127.0.0.1/live", CANARY),
        ({"ingest_url": None, "stream_key": f"rtmp://127.0.0.1/live/{CANARY}"}, "rtmp://127.0.0.1/live", CANARY),
        (
            {"ingest_url": "rtmp://127.0.0.1/live", "backup_ingest_url": f"rtmp://127.0.0.2/live?token={CANARY}"},
            "rtmp://127.0.0.1/live",
            CANARY,
        ),
    ],
)
async def test_what_a_server_gives_can_be_saved_and_its_secrets_are_stored_and_shown_nowhere(
    api: Api, database: Database, wanted: dict[str, Any], url: str, key: str
) -> None:
    made = await save(api, platform="custom", **wanted)
    assert await _stored(api, database) == (url or "rtmp://127.0.0.1:9/live", key)
    await make_room(api)
    begun = await go_live(api, platforms=None, destination_ids=[made["id"]])
    rows = await sql(database, "SELECT * FROM destinations, outputs")
    entries = await sql(database, "SELECT * FROM audit")
    assert CANARY not in json.dumps([made, begun]) and CANARY not in f"{rows}{entries}"


@pytest.mark.parametrize(
    "wanted",
    [
        {"ingest_url": f"rtmp://me:{CANARY}@127.0.0.1/live", "stream_key": "a"},
        {"ingest_url": f"rtmp://{CANARY}@127.0.0.1/live", "stream_key": "a"},
        {"ingest_url": f"{KICK}/app/{CANARY}", "stream_key": "a"},
        {"ingest_url": "rtmp://127.0.0.1/live", "stream_key": f"https://127.0.0.1/live/{CANARY}"},
        {"ingest_url": "rtmp://127.0.0.1/live", "stream_key": f"rtmp://127.0.0.2/live/{CANARY}"},
        {"ingest_url": "rtmp://127.0.0.1", "stream_key": ""},
        {"ingest_url": "rtmp://127.0.0.1/live", "stream_key": " "},
        {"ingest_url": "rtmp://127.0.0.1/live?***", "stream_key": CANARY},
        {"ingest_url": "rtmp://127.0.0.1/live", "stream_key": CANARY + "k" * 2000},
        {"platform": "twitch", "stream_key": f"rtmp://127.0.0.1/app/{CANARY}"},
        {"ingest_url": "rtmp://127.0.0.1/live", "stream_key": CANARY, "label": f"My {CANARY}"},
        {"ingest_url": f"rtmp://127.0.0.1/a?token={CANARY}", "stream_key": "", "label": f"token={CANARY}"},
    ],
)
async def test_what_cannot_be_meant_is_refused_and_not_quoted(
    api: Api, database: Database, wanted: dict[str, Any]
) -> None:
    status, problem = await api.call("POST", "/api/live/destinations", "alice", json={"platform": "custom"} | wanted)
    assert (status, problem["code"]) == (422, "invalid_destination")
    assert CANARY not in json.dumps(problem)
    assert await sql(database, "SELECT id FROM destinations") == []


async def test_a_label_that_was_saved_with_the_key_in_it_bars_no_other_change(api: Api, database: Database) -> None:
    made = await save(api, platform="custom", ingest_url="rtmp://127.0.0.1/live", stream_key="mainstage", label="Stage")
    path = f"/api/live/destinations/{made['id']}"
    # As it was saved before labels were checked.
    await sql(database, "UPDATE destinations SET label = 'mainstage'")
    status, changed = await api.call("PATCH", path, "alice", json={"backup_ingest_url": "rtmp://127.0.0.1/backup"})
    assert (status, changed["backup_ingest_url"]) == (200, "rtmp://127.0.0.1/backup")
    for wanted in ({"label": "mainstage 2"}, {"stream_key": " "}):
        status, problem = await api.call("PATCH", path, "alice", json=wanted)
        assert (status, problem["code"]) == (422, "invalid_destination")
    assert await _stored(api, database) == ("rtmp://127.0.0.1/live", "mainstage")


async def test_an_address_that_is_sent_back_as_it_is_shown_keeps_its_hidden_part(api: Api, database: Database) -> None:
    url = f"rtmp://127.0.0.1/mystream?user=me&pass={CANARY}"
    made = await save(api, platform="custom", ingest_url=url, stream_key="")
    assert made["ingest_url"] == "rtmp://127.0.0.1/mystream?***"
    path = f"/api/live/destinations/{made['id']}"
    status, problem = await api.call("PATCH", path, "alice", json={"label": f"user=me&pass={CANARY}"})
    assert (status, problem["code"], CANARY in json.dumps(problem)) == (422, "invalid_destination", False)
    again = {"ingest_url": made["ingest_url"], "label": "Second"}
    status, changed = await api.call("PATCH", path, "alice", json=again)
    assert (status, changed["label"], changed["key_fingerprint"]) == (200, "Second", made["key_fingerprint"])
    assert await _stored(api, database) == (url, "")
    # The hidden part is not sent to another server, nor to another place of this one.
    for elsewhere in ("rtmp://127.0.0.2/mystream?***", "rtmp://127.0.0.1/other?***"):
        status, problem = await api.call("PATCH", path, "alice", json={"ingest_url": elsewhere, "stream_key": "a"})
        assert (status, problem["code"]) == (422, "invalid_destination")
    newer = url + "2"
    status, changed = await api.call("PATCH", path, "alice", json={"ingest_url": newer})
    assert status == 200 and changed["key_fingerprint"] != made["key_fingerprint"]
    assert await _stored(api, database) == (newer, "")
    status, changed = await api.call("PATCH", path, "alice", json={"stream_key": f"rtmp://127.0.0.1/mystream/{CANARY}"})
    assert status == 200 and CANARY not in json.dumps(changed)
    assert await _stored(api, database) == (newer, CANARY)
