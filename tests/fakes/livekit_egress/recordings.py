"""Reads a recording, and turns its names, ids and moments into those of the one who plays it. `Replay` calls it."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.livekit_egress.clock import new_id
from tests.fakes.livekit_egress.urls import redact

DIRECTORY = Path(__file__).parents[2] / "recordings"
_ID = re.compile(r"^(EG|RM|PA|TR|EV|IN)_\w+$")
_NS = frozenset(("startedAt", "endedAt", "updatedAt", "lastRetryAt"))
_UNITS = {"createdAt": 10**9, "joinedAt": 10**9, "creationTime": 10**9, "joinedAtMs": 10**6, "creationTimeMs": 10**6}
_UNITS["unixMicro"] = 10**3


@dataclass
class Entry:
    """A line of a recording. A `request` holds its `answer` (an entry of kind response or error)."""

    t: float
    kind: str
    data: dict[str, Any]
    answer: Entry | None = None

    @property
    def method(self) -> str:
        return self.data["method"]

    @property
    def body(self) -> dict[str, Any]:
        return self.data["body"]

    @property
    def event(self) -> dict[str, Any]:
        """A webhook's body."""
        return json.loads(self.data["body"])


@dataclass
class Recording:
    """`epoch` is the wall-clock second of `t` 0, as near as the moments in it tell."""

    name: str
    entries: list[Entry]
    epoch: float

    @property
    def requests(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.kind == "request"]

    @property
    def egress_ids(self) -> list[str]:
        """The egresses that its own requests made, in their order."""
        return [
            one.answer.body["egressId"]
            for one in self.requests
            if one.answer is not None and one.answer.kind == "response" and one.method.startswith("start_")
        ]


def load(path: Path | str) -> Recording:
    """`path`, or the name of one in `tests/recordings`."""
    path = Path(path)
    if not path.exists():
        path = DIRECTORY / f"{path.name.removesuffix('.jsonl')}.jsonl"
    entries: list[Entry] = []
    epoch = 0.0
    for line in path.read_text().splitlines():
        data = json.loads(line)
        entry = Entry(data.pop("t"), data.pop("kind"), data)
        entries.append(entry)
        if entry.kind in ("response", "error"):
            asked = next(one for one in reversed(entries) if one.kind == "request" and one.method == entry.method)
            asked.answer = entry
        if entry.kind == "webhook":
            updated = int(entry.event.get("egressInfo", {}).get("updatedAt", 0))
            epoch = max(epoch, updated / 1e9 - entry.t)
    return Recording(path.stem, entries, epoch)


def urls_of(request: dict[str, Any]) -> list[str]:
    """The full URLs of a recorded request, of every kind, in their order."""
    outputs = [*request.get("streamOutputs", []), *(one.get("stream", {}) for one in request.get("outputs", []))]
    found = [url for one in outputs for url in one.get("urls", [])]
    return [*found, *request.get("addOutputUrls", []), *request.get("removeOutputUrls", [])]


def identity_of(request: dict[str, Any]) -> str:
    return request.get("identity") or request.get("media", {}).get("participantVideo", {}).get("identity", "")


@dataclass
class Names:
    """What the recorded names stand for now. Ids that are not known yet get one of their own."""

    speed: float
    rooms: dict[str, str] = field(default_factory=dict)
    identities: dict[str, str] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    requests: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # by recorded egress id: its request as it is kept
    _moments: dict[int, int] = field(default_factory=dict)
    _anchor: tuple[float, float] = (0.0, 0.0)  # a recorded second and the wall-clock second that it stands for

    def anchor(self, recorded: float) -> None:
        self._anchor = (recorded, time.time())

    def id(self, recorded: str) -> str:
        if recorded not in self.ids:
            self.ids[recorded] = new_id(recorded.partition("_")[0])
        return self.ids[recorded]

    def url(self, recorded: str, actual: str) -> None:
        self.urls[recorded] = actual
        self.urls[redact(recorded)] = redact(actual)

    def moment(self, recorded: int) -> int:
        """Nanoseconds; the same recorded moment is always the same one."""
        if recorded not in self._moments:
            began, wall = self._anchor
            at = wall + (recorded / 1e9 - began) / self.speed
            self._moments[recorded] = min(int(at * 1e9), time.time_ns())
        return self._moments[recorded]

    def text(self, text: str) -> str:
        """An error's text: the URLs, redacted or not, and the identities in it."""
        for recorded in sorted(self.urls, key=len, reverse=True):
            text = text.replace(recorded, self.urls[recorded])
        for recorded, actual in self.identities.items():
            text = text.replace(f"participant {recorded} not found", f"participant {actual} not found")
        return text

    def translate(self, value: Any, key: str = "", within: str = "") -> Any:
        """A recorded body, with everything in it that has a name or a moment."""
        if isinstance(value, dict):
            made = {one: self.translate(inner, one, key) for one, inner in value.items()}
            kept = self.requests.get(value.get("egressId", ""))
            if kept is not None:
                for one in ("participant", "egress", "roomComposite", "web"):
                    made.pop(one, None)
                made.update(kept)
            return made
        if isinstance(value, list):
            return [self.translate(one, key, within) for one in value]
        if not isinstance(value, str):
            return value
        if key in _NS:
            return str(self.moment(int(value)))
        if key == "duration":
            return str(int(int(value) / self.speed))
        if key in _UNITS:
            return str(self.moment(int(value) * _UNITS[key]) // _UNITS[key])
        if _ID.match(value):
            return self.id(value)
        if key == "roomName" or (key == "name" and within == "room"):
            return self.rooms.get(value, value)
        if key in ("identity", "participantIdentity"):
            return self.identities.get(value, value)
        if key in ("url", "urls"):
            return self.urls.get(value, value)
        return self.text(value) if key == "error" else value
