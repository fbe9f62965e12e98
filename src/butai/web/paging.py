"""Pages of lists: `limit` entries, newest first, those before `before`; the answer's `next` is the next page's
`before`.

    @router.get("", **answers(JobsOut, 400))
    async def list_jobs(…, before: BeforeId = None, limit: Limit = 50) -> Response:
        jobs, following = cut(await queries.listed(database, limit + 1, before=before), limit, lambda job: job.id)

`next` is null on the last page. A list that is read oldest first has `after` in place of `before`; one whose order the
client chooses has `cursor`. Their values are opaque to clients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar
from uuid import UUID

from fastapi import Query

from butai.web.parameters import Moment

Entry = TypeVar("Entry")
Position = TypeVar("Position")

HIGHEST_ID = 2**63 - 1
"""The highest `bigint`: a higher number is no id, and would be an error in Postgres."""

_OF_NEXT = "`next` of the previous page"

Limit = Annotated[int, Query(ge=1, le=200, description="Entries of a page")]
BeforeId = Annotated[int | None, Query(ge=1, le=HIGHEST_ID, description=_OF_NEXT)]
BeforeMoment = Annotated[Moment | None, Query(description=_OF_NEXT)]
BeforeUuid = Annotated[UUID | None, Query(description=_OF_NEXT)]
AfterId = Annotated[int, Query(ge=0, le=HIGHEST_ID, description=_OF_NEXT)]


def cut(
    rows: Sequence[Entry], limit: int, position: Callable[[Entry], Position]
) -> tuple[Sequence[Entry], Position | None]:
    """Splits up to `limit + 1` rows: the page, and the `position` of its last row if another page follows."""
    page = rows[:limit]
    return page, position(page[-1]) if len(rows) > limit else None
