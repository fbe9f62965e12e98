"""Every duration of the relay, as one value that its controller may send. Pure.

Durations of media are not here, since media run in real time: how late a picture or sound may be (`clock`), how much sound is
buffered (`mixer`), how long packets wait for each other (`pipeline`), a keyframe's interval (`encoder`), and the SDK's 20 ms of
sound in one event (`room`). Neither is what a protocol fixes: none of RTMP's durations is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")


def fixed(value: Any) -> Any:
    """A default that `faster` leaves as it is: the pace of something else than our own waiting sets it."""
    return field(default=value, metadata={"fixed": True})


def faster(timing: T, times: float) -> T:
    """The same durations divided by `times`, but for those that are `fixed`. For dataclasses, and dataclasses within."""
    changes: dict[str, Any] = {}
    for one in fields(timing):  # pyright: ignore[reportArgumentType]
        value = getattr(timing, one.name)
        if is_dataclass(value):
            changes[one.name] = faster(value, times)
        elif "fixed" not in one.metadata:
            changes[one.name] = value / times
    return replace(timing, **changes)  # pyright: ignore[reportArgumentType, reportReturnType]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The durations of a publish. Seconds, but for `queue_ms`."""

    connect_timeout: float = 8.0
    """For DNS, TCP and TLS together."""
    resolve_timeout: float = 5.0
    """For DNS alone."""
    tls_shutdown_timeout: float = 1.0
    """For TLS's own goodbye, before the socket is closed all the same."""
    publish_timeout: float = 8.0
    """From the first byte until the platform accepted the publish."""
    stall_after: float = fixed(1.5)
    """Without evidence that bytes are taken. Platforms acknowledge each 0.2 s at 2.5 Mbps."""
    ignored_after: float = fixed(3.0)
    """Until a platform that acknowledges nothing and answers no ping is judged by TCP's state."""
    unanswered_after: float = fixed(1.0)
    """Until a ping that was read, as an acknowledgement proves, counts as one that is not answered."""
    give_up_stalled: float = 10.0
    """From a stall until the attempt fails: shorter ones heal without a new connection."""
    ping_every: float = fixed(0.5)
    """Between two pings, three of which fall into `stall_after`."""
    check_every: float = fixed(0.1)
    """Between two looks at the evidence."""
    goodbye_timeout: float = 0.75
    """That an orderly end waits for the platform to have read everything."""
    close_timeout: float = 0.25
    """That closing the connection in order may take."""
    settle_time: float = 1.0
    """That a publish of `preflight` must last: platforms may accept it, and close when they have checked the key."""
    queue_ms: int = fixed(3000)
    """Milliseconds of media that may wait for a slow platform; then the queue drops to the next keyframe."""


@dataclass(frozen=True, kw_only=True)
class RelayTiming:
    """The durations of a relay in seconds."""

    abandoned_after: float = 30.0
    """Without a line of a controller, until the relay ends by itself. A controller is replaced within 4."""
    end_limit: float = 8.0
    """For ending: `output_stop_limit`, `close_limit` for each stream and for leaving the room, and a reserve."""
    metrics_every: float = 1.0
    """Between two lines of metrics, which also tell the controller that the relay lives."""
    disconnect_limit: float = 1.0
    """For sending the last lines to a controller that reads slowly."""
    output_stop_limit: float = 2.0
    """For the orderly end of a push, which takes about one."""
    pipeline_stop_limit: float = 2.0
    """For the encoder's thread to end, which takes the time of one frame."""
    lost_after: float = fixed(2.0)
    """Without picture and sound, until the media are lost. A browser tab in the background draws once a second."""
    quiet_after: float = fixed(1.0)
    """Without picture and sound, until sound packets are counted: silence is media, too."""
    count_every: float = fixed(0.5)
    """Between two such counts. A count from before the quiet stretch proves nothing, since the packets after it may have come
    before the stretch, too. So the second count of a stretch decides, before `lost_after`."""
    phase_every: float = fixed(0.1)
    """Between two looks at the phase of the media."""
    first_join_for: float = 15.0
    """That an unreachable LiveKit is tried again before the source has failed."""
    join_delay: float = 0.3
    """Before the second try to join; doubled for each further one."""
    join_delay_cap: float = 3.0
    """The longest such delay."""
    reconnect_for: float = 3.0
    """That the SDK may try to reconnect by itself. It tries each 5; joining again is quicker."""
    connect_limit: float = fixed(5.0)
    """For one signal connection to LiveKit."""
    join_limit: float = fixed(15.0)
    """For joining, including the media connection."""
    close_limit: float = 2.0
    """For closing a stream, for leaving the room, and for reading the SDK's statistics."""
    rtmp: Limits = field(default_factory=Limits)

    def faster(self, times: float) -> RelayTiming:
        """All durations divided, but for the fixed ones."""
        return faster(self, times)
