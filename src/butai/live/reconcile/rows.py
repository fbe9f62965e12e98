"""A broadcast and its outputs as immutable values. Pure.

Fields are the columns of `butai.live.models`; times are seconds since 1970 by Postgres's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from butai.live.states import OutputState

Platform = Literal["youtube", "twitch", "custom"]


@dataclass(frozen=True, slots=True)
class OutputRow:
    """One output. The stream key stays sealed."""

    id: UUID
    platform: Platform
    ingest_url: str
    backup_ingest_url: str | None
    sealed_key: bytes = field(repr=False)
    wanted: Literal["on", "off"]
    state: OutputState
    state_since: float
    confirmation: Literal["none", "transport", "platform"] = "none"
    attempt: int = 0
    attempt_started_at: float | None = None
    next_attempt_at: float | None = None
    tries: int = 0
    budget_from: float | None = None
    short_lives: int = 0
    key_live_at: float | None = None
    live_since: float | None = None
    first_live_at: float | None = None
    last_live_at: float | None = None
    retry_asked_at: float | None = None
    error_code: str | None = None
    error_cause: str | None = None
    error_detail: str | None = None
    check_code: str | None = None
    saved_ingest_url: str | None = None
    """The ingest URL of its destination as it is saved now, where outputs wait for the first picture; no column."""
    ended_at: float | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more happens unless the host requests it."""
        return self.state in (OutputState.ENDED, OutputState.FAILED)

    @property
    def trying(self) -> bool:
        """Whether attempt number `attempt` runs, or should run."""
        return (
            self.state in (OutputState.STARTING, OutputState.LIVE, OutputState.RECONNECTING)
            and self.attempt > 0
            and self.next_attempt_at is None
        )

    @property
    def waiting(self) -> bool:
        """Whether an attempt is still to begin: the first, or one after `next_attempt_at`."""
        return self.state is OutputState.PENDING or (
            self.state in (OutputState.STARTING, OutputState.RECONNECTING) and self.next_attempt_at is not None
        )

    @property
    def next_ingest_url(self) -> str:
        """The ingest URL of an attempt that begins now, also of a destination that was changed meanwhile."""
        return self.saved_ingest_url or self.ingest_url

    @property
    def attempt_ingest_url(self) -> str:
        """The ingest URL of this attempt: every second try of a budget uses the backup, where there is one."""
        return self.backup_ingest_url if self.backup_ingest_url and self.tries % 2 else self.ingest_url


@dataclass(frozen=True, slots=True)
class BroadcastRow:
    """One broadcast with all of its outputs."""

    id: UUID
    room_id: str
    host_identity: str
    wanted: Literal["on_air", "off_air"]
    preset: str
    video_source: str
    video_name: str
    source_grace: float
    on_source_lost: Literal["end", "stay"]
    outputs: tuple[OutputRow, ...]
    livekit_project: str = "default"
    room_made: bool = False
    hold_until_media: bool = False
    sound_only: bool = False
    stop_asked_at: float | None = None
    ended_at: float | None = None
    end_code: str | None = None
    source_phase: str = "connecting"
    source_since: float | None = None
    source_code: str | None = None
    source_ready: bool = False
    engine_host: str | None = None
    engine_ref: str | None = None
    engine_seen_at: float | None = None
    engine_failures: int = 0
    engine_next_at: float | None = None
