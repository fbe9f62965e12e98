"""Every list is a merge of index scans, whatever its order: a page must cost the same at any depth and any size."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import pytest
from pydantic import SecretStr

from butai.assets import queries
from butai.assets.listing import PagePosition, parse_sort
from butai.assets.queries import ListRequest
from butai.assets.reading import lookup
from butai.config import DatabaseSettings
from butai.database import Database
from tests.databases import Databases
from tests.query_plans import filled_database, plan_nodes

ROWS = """
INSERT INTO assets (id, type, s3_key, wanted_key, stem, display_name, mime_type, size_bytes, status, owner_user_id,
                    visibility, ever_public, object_key, change_seq, created_at, updated_at)
SELECT gen_random_uuid(), 'vrm', 'vrm/' || n || '.vrm', 'vrm/' || n || '.vrm', 'vrm/' || n, 'Name ' || n % 997,
       'model/gltf-binary', n % 4999, 'ready', 'user ' || n % 10, CASE WHEN n % 5 = 0 THEN 'private' ELSE 'public' END,
       true, 'object/' || n, n, timestamptz '2026-01-01' + n * interval '1 second', now() - n * interval '1 second'
FROM generate_series(1, 20000) AS n
"""

VALUES = {
    "created_at": "2026-01-01 03:00:00+00",
    "updated_at": "2026-01-01 03:00:00+00",
    "display_name": "name 5",
    "size_bytes": "77",
}


@pytest.fixture(scope="module")
def filled_url(databases: Databases) -> Iterator[str]:
    """One database for all tests that ask for plans: they only read."""
    with filled_database(databases, ROWS) as url:
        yield url


@pytest.fixture
async def filled(filled_url: str) -> AsyncIterator[Database]:
    async with Database(DatabaseSettings(url=SecretStr(filled_url))) as opened:
        yield opened


@pytest.mark.parametrize("field", list(queries.SORT_COLUMNS))
@pytest.mark.parametrize("down", ["", "-"])
@pytest.mark.parametrize("placed", [False, True])
async def test_a_page_reads_no_more_rows_than_it_shows(filled: Database, field: str, down: str, placed: bool) -> None:
    order = parse_sort(down + field)
    place = PagePosition(VALUES[field], "0190a5a5-0000-7000-8000-000000000000", None, 2) if placed else None
    request = ListRequest(queries.AssetType.VRM, "user 0", order, 100, place)
    statement, parameters = queries.page_statement(request)
    found = await plan_nodes(filled, str(statement), parameters, "ANALYZE, TIMING OFF")
    scans = [node for node in found if "Scan" in node["Node Type"] and "Relation Name" in node]
    column = queries.SORT_COLUMNS[field][0]
    assert {scan["Node Type"] for scan in scans} == {"Index Scan"}, json.dumps(found[0], indent=1)
    assert {scan["Index Name"] for scan in scans} == {f"ix_assets_public_{column}", f"ix_assets_private_{column}"}
    assert all(scan["Actual Rows"] <= 101 for scan in scans)


async def test_a_key_is_found_by_indexes(filled: Database) -> None:
    parameters = {"user": "user 0", "keys": ["vrm/77.vrm", "vrm/78.vrm"], "operator": False}
    found = await plan_nodes(filled, lookup.READABLE, parameters)
    scans = [node for node in found if "Relation Name" in node]
    assert not [scan for scan in scans if scan["Node Type"] == "Seq Scan"], json.dumps(found[0], indent=1)
