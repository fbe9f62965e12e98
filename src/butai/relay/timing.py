"""Every duration of the relay, as one value that its controller may send. Pure.

Durations of media are not here, since media run in real time: how late a picture or sound may be (`clock`), how much
sound is buffered (`mixer`), how long packets wait for each other (`pipeline`), a keyframe's interval (`encoder`), and
the SDK's 20 ms of sound in one event (`room`). Durations fixed by a protocol would not be here either, but RTMP has
none."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")


def fixed(value: Any) -> Any:
    """A default that `faster` leaves unchanged: it depends on the pace of something other than our own waiting."""
    return field(default=value, metadata={"fixed": True})


def faster(timing: T, times: float) -> T:
    """The same durations divided by `times`, except the `fixed` ones. For dataclasses, and dataclasses within."""
    changes: dict[str, Any] = {}
    for one in fields(timing):  # pyright: ignore[reportArgumentType]
        value = getattr(timing, one.name)
        if is_dataclass(value):
            changes[one.name] = faster(value, times)
        elif "fixed" not in one.metadata:
            changes[one.name] = value / times
    return replace(timing, **changes)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The durations of a publish, in seconds except `queue_ms`."""

    connect_timeout: float = 8.0
    """Most time for DNS, TCP and TLS together."""
    resolve_timeout: float = 5.0
    """Most time for DNS alone."""
    tls_shutdown_timeout: float = 1.0
    """Most time for TLS's closing messages, before the socket is closed in any case."""
    silence_timeout: float = 8.0
    """Most time for the RTMP handshake, and for a platform that reads nothing of what it was sent."""
    kept_silence: float = 2.0
    """The same for the handshake over a connection that was open before: its server may have forgotten it."""
    publish_timeout: float = 30.0
    """Most time from the first byte until the platform accepts the publish: as long as encoders wait (librtmp, of OBS)."""
    hurried_publish_timeout: float = 12.0
    """The same where a platform keeps viewers for a short time only, within which several tries must fit."""
    stall_after: float = fixed(1.5)
    """Time without expected evidence that the platform reads, after which a push is stalled. At 2.5 Mbps platforms
    acknowledge every 0.2 s."""
    ignored_after: float = fixed(3.0)
    """Time after which a platform that neither acknowledges nor answers pings is judged by TCP's state."""
    unanswered_after: float = fixed(1.0)
    """Time after which a ping that was read, as an acknowledgement proves, counts as unanswered."""
    give_up_stalled: float = 10.0
    """Time from a stall until the attempt fails: shorter stalls end without a new connection."""
    ping_every: float = fixed(0.5)
    """Time between two pings, three of which fall into `stall_after`."""
    check_every: float = fixed(0.1)
    """Time between two checks of the evidence."""
    goodbye_timeout: float = 0.75
    """Most time for which an orderly end waits until the platform has read everything."""
    close_timeout: float = 0.25
    """Most time for closing the connection in order."""
    settle_time: float = 1.0
    """Time for which a publish of `preflight` must last: platforms may accept it, and close after they have checked the
    key."""
    queue_ms: int = fixed(3000)
    """Milliseconds of media that may wait for a slow platform; then the queue drops to the next keyframe."""


def hurried(limits: Limits) -> Limits:
    """The durations of a publish to a platform that keeps its viewers for a short time only."""
    return replace(limits, publish_timeout=min(limits.publish_timeout, limits.hurried_publish_timeout))


@dataclass(frozen=True, kw_only=True)
class RelayTiming:
    """The durations of a relay in seconds."""

    abandoned_after: float = 30.0
    """Time without a line from a controller after which the relay ends by itself. A controller is replaced within 4."""
    stood_still_after: float = fixed(5.0)
    """Time between two looks at the controller, one each `metrics_every`, from which on the process did not run."""
    stale_for: float = fixed(1.0)
    """Time after such a pause for which lines prove nothing: they may have waited in the socket."""
    heard_within: float = 10.0
    """Most time after such a pause until the controller must be heard, if `abandoned_after` passed meanwhile: two pings."""
    end_limit: float = 8.0
    """Most time for ending: `output_stop_limit`, `close_limit` for each stream and for leaving the room, and a
    reserve."""
    metrics_every: float = 1.0
    """Time between two lines of metrics, which also show the controller that the relay lives."""
    disconnect_limit: float = 1.0
    """Most time for sending the last lines to a controller that reads slowly."""
    output_stop_limit: float = 2.0
    """Most time for the orderly end of a push, which takes about one."""
    pipeline_stop_limit: float = 2.0
    """Most time for the encoder's thread to end, which takes the time of one frame."""
    lost_after: float = fixed(2.0)
    """Time without picture and sound after which the media are lost. A browser tab in the background draws once a
    second."""
    picture_within: float = fixed(3.0)
    """Most time from the subscription to a video track until its first picture; then the picture is missing."""
    check_server_every: float = 15.0
    """Time between two checks of the server of an output that waits for the first picture; doubled for each further one."""
    check_server_cap: float = 60.0
    """Longest such time."""
    check_again_after: float = 5.0
    """The same after a check that failed: a host may have put it right."""
    kept_for: float = 2.0
    """Time for which a checked connection stays open once its output no longer waits: its attempt is ordered within it."""
    dropped_after: float = fixed(30.0)
    """Time after which a host of whom nothing comes, and who is still in the room, is running: LiveKit removes one whose
    process was killed within 25 s."""
    quiet_after: float = fixed(1.0)
    """Time without picture and sound after which sound packets are counted: silence is media, too."""
    count_every: float = fixed(0.5)
    """Time between two such counts. A count from before the quiet period proves nothing, since its packets may have
    come before the period, too. So the second count of a period decides, before `lost_after`."""
    phase_every: float = fixed(0.1)
    """Time between two checks of the phase of the media."""
    first_join_for: float = 15.0
    """Time for which an unreachable LiveKit is tried again before the source has failed."""
    join_delay: float = 0.3
    """Wait before the second try to join; doubled for each further one."""
    join_delay_cap: float = 3.0
    """Longest such wait."""
    reconnect_for: float = 3.0
    """Most time for the SDK to reconnect by itself. It tries every 5; joining again is quicker."""
    succeed_within: float = fixed(10.0)
    """Most time for joining beside a stay with many subscriptions, and time until the next try."""
    settle_for: float = fixed(0.5)
    """Time for which the new stay receives everything before it goes out: its buffers fill meanwhile."""
    connect_limit: float = fixed(5.0)
    """Most time for one signal connection to LiveKit."""
    join_limit: float = fixed(15.0)
    """Most time for joining, including the media connection."""
    close_limit: float = 2.0
    """Most time for closing a stream, for leaving the room, and for reading the SDK's statistics."""
    rtmp: Limits = field(default_factory=Limits)

    def faster(self, times: float) -> RelayTiming:
        """The same timing with all durations divided by `times`, except the fixed ones."""
        return faster(self, times)
