"""Makes the lines in which a relay tells of a change: numbered, and stamped with a clock that cannot be set."""

from __future__ import annotations

import itertools
import time
from typing import Any

from butai.relay.messages import OutputLine, OutputPhase, SourceLine, SourcePhase

_numbers = itertools.count(1)


def output_line(
    output_id: str, attempt: int, phase: OutputPhase, code: str = "", detail: str = "", **more: Any
) -> OutputLine:
    """A line about an output."""
    return OutputLine(
        output_id, attempt, phase, time.time(), code, detail, number=next(_numbers), mono=time.monotonic(), **more
    )


def source_line(phase: SourcePhase, code: str = "", detail: str = "", **more: Any) -> SourceLine:
    """A line about the host's media."""
    return SourceLine(phase, time.time(), code, detail, mono=time.monotonic(), **more)
