"""The table of failures: why a job's last attempt failed. procrastinate's own tables hold the jobs."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, func
from sqlalchemy.orm import Mapped, mapped_column

from butai.database import Model


class JobFailure(Model):
    """The reason of a job's last failed attempt: a stable code and one line without secrets."""

    __tablename__ = "job_failures"

    job_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    code: Mapped[str]
    text: Mapped[str]
