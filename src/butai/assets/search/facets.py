"""Facets of a search: the number of matching rows with each type, licence, format, expression and tag.

Counted over at most `SAMPLE` rows: 10,000 show the common values in a tenth of a second, where a million take ten
seconds."""

from __future__ import annotations

from psycopg import sql

from butai.assets.schemas import FacetCount, FacetsOut
from butai.assets.search.filters import LICENCE, Filters
from butai.assets.search.pages import matching
from butai.database import Connection, Database

SAMPLE = 10_000
"""Most rows that are counted."""

TOP = 50
"""Most values of each facet."""

# A word is `kind=value`, so words are ranked within their kinds. Many rows have the same words (avatars of one tool
# have the same expressions), but grouping such rows first costs as much as counting all.
_COUNT = """
    WITH found AS MATERIALIZED ({rows}),
         sample AS (SELECT type, terms, tags FROM found LIMIT {most}),
         words AS (
             SELECT 'type' AS kind, type AS value, count(*) AS n FROM sample GROUP BY type
             UNION ALL SELECT split_part(word, '=', 1), substr(word, strpos(word, '=') + 1), n
             FROM (SELECT word, count(*) AS n FROM sample, unnest(terms) AS word GROUP BY word) AS counted
             UNION ALL SELECT 'tag', tag, count(*) FROM sample, unnest(tags) AS tag GROUP BY tag
         )
    SELECT kind, value, n
    FROM (SELECT *, row_number() OVER (PARTITION BY kind ORDER BY n DESC, value) AS place FROM words) AS ranked
    WHERE place <= {top} ORDER BY kind, place
"""


async def facets(database: Database, filters: Filters, user_id: str | None) -> FacetsOut:
    """The facets of a search. Raises `DatabaseUnavailable`."""
    rows = matching(filters, user_id, "type, terms, tags")
    statement = sql.SQL(_COUNT.format(rows=rows, most=SAMPLE, top=TOP))  # pyright: ignore[reportArgumentType]

    async def ask(connection: Connection) -> list[tuple[str, str, int]]:
        async with connection.transaction():
            # 10,000 rows with their words are 6 MB: with the default of 4 MB they would go through a file.
            await connection.execute("SET LOCAL work_mem = '32MB'")
            return await (await connection.execute(statement, prepare=False)).fetchall()

    counts: dict[str, list[FacetCount]] = {}
    for kind, value, count in await database.query(ask):
        counts.setdefault(kind, []).append(FacetCount(value, count))
    counted = sum(one.count for one in counts.get("type", ()))
    return FacetsOut(
        counted=counted,
        is_exact=counted < SAMPLE,
        types=counts.get("type", []),
        formats=counts.get("format", []),
        licence={part: counts.get(f"licence.{part}", []) for part in LICENCE},
        expressions=counts.get("expression", []),
        tags=counts.get("tag", []),
    )
