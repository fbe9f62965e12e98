"""A library of random assets, and the rules of a search once more, as plain as can be."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

from psycopg.types.json import Jsonb

from tests.conftest import Api

TYPES = ("vrm", "animation", "bgm", "hdr", "scene")
MOODS = ("Neon", "Gentle", "夜の", "it's {x} %(y)s")
EXPRESSIONS = ("happy", "blinkleft", "tongue", "it's {0} 100%")
COMMERCIAL = ("forbidden", "personal_non_profit", "personal_profit", "corporation")
OWNERS = ("alice", "bob", None)

INSERT = """
INSERT INTO assets (id, type, sidecar, s3_key, wanted_key, stem, display_name, mime_type, size_bytes, status,
                    owner_user_id, visibility, ever_public, object_key, change_seq, created_at, updated_at, tags, terms,
                    triangles, duration_seconds, facts, deleted_at, meta)
VALUES (%(id)s, %(type)s, %(sidecar)s, %(key)s, %(key)s, %(key)s, %(name)s, 'x/y', %(size)s, %(status)s, %(owner)s,
        %(visibility)s, true, %(key)s, %(number)s, %(created)s, %(created)s, %(tags)s, %(terms)s, %(triangles)s,
        %(duration)s, %(facts)s, %(deleted)s, %(meta)s)
"""


def make_rows(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Assets as inspection leaves them; every value is frequent in some and rare in others."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        kind = rng.choices(TYPES, (8, 2, 2, 1, 2))[0]
        vrm = kind == "vrm"
        licence = {
            "commercial": rng.choice(COMMERCIAL),
            "redistribution": rng.choices(("forbidden", "allowed"), (4, 1))[0],
            "modification": rng.choice(("forbidden", "allowed", "allowed_redistribution")),
            "credit": rng.choice(("required", "unnecessary")),
        }
        found = [name for name in EXPRESSIONS if rng.random() < 0.5] if vrm else []
        form = (
            rng.choice(("vrm0", "vrm1")) if vrm else {"animation": "fbx", "bgm": "mp3", "hdr": "hdr"}.get(kind, "glb")
        )
        terms = [f"format={form}", *(f"expression={name}" for name in found)]
        if vrm:
            terms += [f"licence.{part}={word}" for part, word in licence.items()]
        rows.append(
            {
                "id": uuid4(),
                "number": number,
                "type": kind,
                "sidecar": "thumb" if rng.random() < 0.03 else None,
                "key": f"{kind}/{number}",
                "name": f"{rng.choice(MOODS)} {rng.choice(('Aoi', 'あおい', '雪女', 'fox_1'))} {number % 37}",
                "size": rng.randrange(1, 40),
                "status": rng.choices(("ready", "failed", "missing", "uploading"), (30, 1, 1, 1))[0],
                "owner": rng.choice(OWNERS),
                "visibility": rng.choices(("public", "private"), (2, 1))[0],
                "created": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=rng.randrange(count // 2)),
                "tags": sorted({rng.choice(MOODS), f"series {number % 50}"}) if rng.random() < 0.8 else [],
                "terms": terms,
                "triangles": rng.randrange(1000) if kind in ("vrm", "scene") else None,
                "duration": round(rng.random() * 100, 2) if kind in ("animation", "bgm") else None,
                "facts": Jsonb({"licence": licence, "model": {"bones": ["hips"], "meshes": 1}} if vrm else {}),
                "licence": licence if vrm else {},
                "deleted": datetime(2026, 2, 1, tzinfo=UTC) if rng.random() < 0.05 else None,
                # A studio's own words may be ours.
                "meta": Jsonb({"status": "evil", "facts": 1, "gender": "female"} if number % 7 == 0 else {}),
            }
        )
    return rows


Query = list[tuple[str, str]]


SORTS = {
    "created_at": lambda row: (row["created"], row["id"].bytes),
    "display_name": lambda row: (row["name"].lower().encode(), row["id"].bytes),
    "size_bytes": lambda row: (row["size"], row["id"].bytes),
}


def matches(row: dict[str, Any], query: Query, user: str | None, *, operator: bool = False) -> bool:
    """What a search should say of a row: the rules once more, as plain as can be."""
    asked = dict(query)
    own = user is not None and row["owner"] == user
    trashed = asked.get("trashed") == "true"
    status = asked.get("status") or (None if trashed else "ready")
    everything = operator and asked.get("all") == "true"
    if row["sidecar"] or trashed != (row["deleted"] is not None) or (status and row["status"] != status):
        return False
    ordinary = status == "ready" and not trashed
    if not (everything or own or (ordinary and row["visibility"] == "public")):
        return False
    if (asked.get("owner") == "me" and not own) or asked.get("visibility", row["visibility"]) != row["visibility"]:
        return False
    for name, value in query:
        several = value.split(",")
        if name == "type" and row["type"] not in several:
            return False
        if name == "q" and value.lower() not in row["name"].lower():
            return False
        if name == "tag" and value not in row["tags"]:
            return False
        if name == "has_expression" and f"expression={value.lower()}" not in row["terms"]:
            return False
        if (name == "format" or name.startswith("licence.")) and not {f"{name}={one}" for one in several} & set(
            row["terms"]
        ):
            return False
        end, _, field = name.partition("_")
        if end in ("min", "max"):
            have = row[field]
            if have is None or (have < float(value) if end == "min" else have > float(value)):
                return False
    return True


def random_query(rng: random.Random) -> Query:
    parts: list[Query] = [
        [("type", ",".join(rng.sample(TYPES, rng.choice((1, 1, 2, 5)))))],
        [("q", rng.choice(("Aoi", "あおい", "雪女", "%", "fox_1", "夜の あ", "nobody")))],
        [("tag", rng.choice((*MOODS, f"series {rng.randrange(50)}", "none")))],
        [("tag", "Neon"), ("tag", f"series {rng.randrange(50)}")],
        [("has_expression", rng.choice((*EXPRESSIONS, "blinkLeft", "no")))],
        [("has_expression", "happy"), ("has_expression", "tongue")],
        [("format", rng.choice(("vrm1", "vrm0,vrm1", "mp3", "nothing", "glb,fbx")))],
        [("licence.commercial", ",".join(rng.sample(COMMERCIAL, rng.choice((1, 2)))))],
        [("licence.credit", "required"), ("licence.redistribution", rng.choice(("allowed", "forbidden")))],
        [("min_duration", str(rng.randrange(100)))],
        [("min_triangles", str(low := rng.randrange(1000))), ("max_triangles", str(low + rng.choice((0, 30, 500))))],
        [(rng.choice(("min_size", "max_size")), str(rng.randrange(40)))],
        [("visibility", rng.choice(("public", "private")))],
        [("owner", "me")],
        [("status", rng.choice(("failed", "missing", "ready")))],
        [("trashed", "true")],
    ]
    chosen = rng.sample(parts, rng.choice((0, 1, 1, 2, 2, 3)))
    found: Query = []
    for name, value in (pair for part in chosen for pair in part):
        if name in ("tag", "has_expression") or name not in dict(found):
            found.append((name, value))
    return found


async def walk_pages(api: Api, query: Query, user: str | None, headers: dict[str, str] | None = None) -> list[Any]:
    items: list[Any] = []
    cursor: str | None = None
    while True:
        asked = [*query, *([("cursor", cursor)] if cursor else [])]
        status, body = await api.call("GET", f"/api/assets?{urlencode(asked, quote_via=quote)}", user, headers=headers)
        assert status == 200, (asked, body)
        items += body["items"]
        cursor = body["next"]
        if cursor is None:
            return items
