"""Answers declared once, pages cut once, and old names beside new ones."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from butai.operations.schemas import FiguresOut, HealthOut, PartDetailOut, PartOut
from butai.web.old_names import with_old_names
from butai.web.paging import cut
from butai.web.problems import Envelope
from butai.web.responses import answers, respond, schemas, stored_list

FIGURES = FiguresOut(1, None, 0, 0, 2, 0, 0, 0, 0, 0, {"ready": 3}, 1, 0.5)
HEALTH = HealthOut(
    "ok",
    datetime(2026, 3, 1, tzinfo=UTC),
    "0.1.0",
    [PartOut("worker", "ok", detail=PartDetailOut(alive=1, seconds=0.5)), PartOut("store", "ok", ms=1.5)],
    FIGURES,
)


def test_an_answer_is_json_that_no_cache_keeps() -> None:
    answer = respond(HEALTH)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["cache-control"] == "private, no-store"
    assert msgspec.json.decode(answer.body, type=HealthOut) == HEALTH
    made = respond(HEALTH, 201, {"cache-control": "max-age=5", "etag": '"1"'})
    assert (made.status_code, made.headers["cache-control"], made.headers["etag"]) == (201, "max-age=5", '"1"')


def test_a_route_declares_its_struct_and_the_document_has_its_schema_and_those_within() -> None:
    route: dict[str, Any] = answers(HealthOut, 403)
    content = route["responses"][200]["content"]
    assert content == {"application/json": {"schema": {"$ref": "#/components/schemas/HealthOut"}}}
    assert {200, 401, 403, 429, 500, 503} == set(route["responses"])
    assert {"HealthOut", "PartOut", "PartDetailOut", "FiguresOut"} <= set(schemas())


def test_a_route_says_which_errors_links_and_further_statuses_it_has() -> None:
    assert set(answers(HealthOut, error=None)["responses"]) == {200}
    route = answers(HealthOut, 400, also={503: "Not yet"}, links={"next": {}}, error=Envelope)
    assert route["responses"][503] == route["responses"][200] | {"description": "Not yet"}
    assert route["responses"][200]["links"] == {"next": {}}
    assert route["responses"][400]["content"] == {
        "application/json": {"schema": {"$ref": "#/components/schemas/Envelope"}}
    }
    assert {"Problem", "Envelope", "EnvelopeError", "BareError"} <= set(schemas())


def test_items_that_postgres_wrote_leave_as_they_are() -> None:
    class Listed(msgspec.Struct):
        items: list[int]

    assert respond(Listed(stored_list(b"1, 2,3"))).body == b'{"items":[1, 2,3]}'
    assert respond(with_old_names(Listed(stored_list(b"")), {"items": "all"})).body == b'{"items":[],"all":[]}'


def test_two_structs_of_one_name_are_refused() -> None:
    class HealthOut(msgspec.Struct):
        pass

    with pytest.raises(ValueError, match="HealthOut"):
        answers(HealthOut)


def test_old_names_stand_beside_the_new_ones_at_every_depth() -> None:
    body = with_old_names(HEALTH, {"broadcasts_on_air": "showsOnAir"})
    figures = body["figures"]
    assert figures["broadcasts_on_air"] == figures["showsOnAir"] == 1
    assert figures["jobs_waiting"] == figures["jobsWaiting"] == 2
    assert "broadcastsOnAir" not in figures
    assert figures["assets"] == {"ready": 3}
    # What is not set stays away under either name.
    assert body["parts"][0]["detail"] == {"alive": 1, "seconds": 0.5}
    assert msgspec.convert(body, HealthOut) == HEALTH


@pytest.mark.parametrize(
    ("rows", "page", "following"),
    [([], [], None), ([9, 8], [9, 8], None), ([9, 8, 7], [9, 8, 7], None), ([9, 8, 7, 6], [9, 8, 7], 7)],
)
def test_a_page_says_where_the_next_begins_only_if_there_is_one(
    rows: list[int], page: list[int], following: int | None
) -> None:
    assert cut(rows, 3, lambda row: row) == (page, following)
