"""A stand-in for LiveKit with an Egress fleet: what a test or bench uses where no real one can be run.

It answers the official client (`livekit.api.LiveKitAPI(standin.url, key, secret)`) and sends signed webhooks. What it
does is what LiveKit showed in `tests/recordings`; `tests/integration/test_livekit_standin.py` holds it to them.

    url = "rtmp://127.0.0.1:1935/live/key"
    webhook = "http://127.0.0.1:PORT/api/live/webhook"
    async with StandIn(key="devkey", secret=SECRET, webhooks=[webhook], speed=10) as standin:
        standin.platforms[url] = [Refuse(), Accept(after=1.1)]  # one entry for each attempt
        standin.host_joins("room-1", "host")
        ...
        assert standin.drop(url) == 1
        assert standin.high_water[url] == 1  # never two at once

Time: every delay below is in LiveKit's seconds and is divided by `speed`; `started_at`, `updated_at`, `created_at` are
real moments. Scripts go by the full URL with its key: a list has one entry for each attempt (the last is used again), a
single entry is for all of them, `standin.default` for URLs without one; else the platform accepts, and refuses a second
publisher.

Scripts: `Accept(after, fails_after, error)`, `Refuse(after, error)`, `Unreachable(after)`, `Never()`.

Commands (`commands.py`; the same over `POST /control`): `drop(url)`, `stall(url)`, `platform_gone(url)`, `heal(url)`,
`fail(egress_id or url, error, code)`, `kill_worker(egress_id)`, `freeze(egress_id)` (stale ACTIVE),
`forget(egress_id)`, `expire()`, `no_workers(True)`, `slow_start(seconds)` (an orphan when the client has given up),
`stop_hangs(True)`, `await down(True, how="refuse"|"hang"|"error")`, `add_key`, `remove_key`, `room_absent(room)`,
`host_joins(room, identity)`, `host_leaves(room, identity, reason)`, `close_source(room)`, `ingress_starts(id)`,
`ingress_ends(id)`, `webhook_policy(on=, delay=, reorder=, loss=, doubled=)`.

What it counts: `calls` (method → count), `log` (each call with its request), `starts` (each start: room, urls, egress
id or error), `running` (full URL → ids of the egresses that hold it now), `high_water` (full URL → most at once),
`records` (what ListEgress shows), `egresses` (what the workers know), `webhooks.sent`, `webhooks.emitted`,
`webhooks.counts`; with `keep_history = True`, `history` has every state that ListEgress could have shown, with its
wall-clock second.

Rooms: with `auto_rooms` (the default) a start for an unknown room makes the room with its host in it; without, 404.

`Replay(path, speed=…)` is a `StandIn` that plays one recording: the recorded requests, made again, get the recorded
answers, polls and webhooks at the recorded times behind them, with rooms, ids, keys and moments of their own. Whatever
is asked that is not in the recording is answered by the scripted worker.

Run as a process: `python -m tests.fakes.livekit_egress --port N --key K --secret S [--webhook URL]… [--speed X]`; it
prints `ready URL`, and `POST /control` takes `{"command": "drop", "args": ["rtmp://…"], "kwargs": {}}`; `GET /control`
answers with the counters.
"""

from tests.fakes.livekit_egress.platforms import Accept, Never, Refuse, Script, Unreachable
from tests.fakes.livekit_egress.replay import Replay
from tests.fakes.livekit_egress.standin import StandIn, Start
from tests.fakes.livekit_egress.urls import redact
from tests.fakes.livekit_egress.webhooks import Policy, Sent, Webhooks, subject

__all__ = [
    "Accept",
    "Never",
    "Policy",
    "Refuse",
    "Replay",
    "Script",
    "Sent",
    "StandIn",
    "Start",
    "Unreachable",
    "Webhooks",
    "redact",
    "subject",
]
