"""What a controller and a relay say to each other: one JSON object a line over a unix socket.

The relay listens (`<folder>/<broadcast_id>.sock`, mode 0600), since it outlives its controller: whoever holds the
broadcast's lease next connects and goes on. Stream keys travel here and nowhere else, never in argv or the environment.

A controller's first line is `HelloLine`. Its `epoch` is the lease's: a relay that has heard a higher one refuses a lower one
(`RefusedLine`, then it hangs up), and a new `HelloLine` ends the connection before it. So at most one controller rules a relay.
The relay answers `WelcomeLine`: what it is doing. Then `ConfigureLine` once, to a relay that says it has none.

Times are seconds since 1970, as floats.
"""

from __future__ import annotations

from typing import Literal

import msgspec

OutputPhase = Literal["connecting", "publishing", "live", "stalled", "failed", "ended"]
"""`connecting`: DNS, TCP, TLS, RTMP handshake. `publishing`: the platform accepted the publish, nothing is acknowledged.
`live`: it acknowledges bytes. `stalled`: it was live and takes no bytes. `failed`, `ended`: over, and nothing more comes of
this attempt."""

SourcePhase = Literal["connecting", "waiting", "live", "lost", "ended", "failed"]
"""`waiting`: in the room, no media of the host yet. `live`: media comes. `lost`: it came and no longer does; picture and
silence go on. `ended`: the room is gone, or the host is away for longer than the grace. `failed`: the room cannot be
joined."""


class Line(msgspec.Struct, tag_field="type", frozen=True, omit_defaults=True):
    """One line of the conversation."""


class Preset(msgspec.Struct, frozen=True):
    """What is encoded: pixels, frames a second, bits a second in thousands, samples a second."""

    width: int
    height: int
    fps: int
    video_kbps: int
    audio_kbps: int = 128
    audio_rate: int = 48000


# From the controller


class HelloLine(Line, tag="hello", frozen=True, omit_defaults=True):
    """Who speaks. `epoch`: of the lease."""

    controller: str
    epoch: int


class ConfigureLine(Line, tag="configure", frozen=True, omit_defaults=True):
    """What to send. `token`: joins the room hidden, and may only subscribe. `video_source`: `camera`, `screen_share` or
    `any`; `video_name`: the track of that name before all others. `grace`: seconds without the host's media until
    `ended` (`on_lost="end"`) or nothing but a report (`on_lost="stay"`).
    """

    broadcast_id: str
    livekit_url: str
    token: str
    host_identity: str
    preset: Preset
    video_source: str = "any"
    video_name: str = ""
    grace: float = 60.0
    on_lost: Literal["end", "stay"] = "end"

    def __repr__(self) -> str:
        return f"Configure({self.broadcast_id})"


class StartOutputLine(Line, tag="start_output", frozen=True, omit_defaults=True):
    """Begin an attempt. A relay that runs this output's attempt already does nothing; an older one it ends first.

    `url`: without the key. `allow_private`: loopback and private addresses may be pushed to.
    """

    output_id: str
    attempt: int
    url: str
    key: str
    allow_private: bool = False

    def __repr__(self) -> str:
        return f"StartOutput({self.output_id}, {self.attempt})"


class StopOutputLine(Line, tag="stop_output", frozen=True, omit_defaults=True):
    """End an output's push. Answered by `OutputLine(phase="ended")`, also when there was none."""

    output_id: str


class StopLine(Line, tag="stop", frozen=True, omit_defaults=True):
    """End everything and exit. Answered by `ByeLine`."""


class PingLine(Line, tag="ping", frozen=True, omit_defaults=True):
    """The controller lives. A relay that hears nothing for 30 s ends by itself."""


# From the relay


class OutputLine(Line, tag="output", frozen=True, omit_defaults=True):
    """An output's attempt changed. `code`: of live.md's errors, in `failed` (and the cause in `stalled`). `detail`: for
    operators, without the key.
    """

    output_id: str
    attempt: int
    phase: OutputPhase
    at: float
    code: str = ""
    detail: str = ""


class SourceLine(Line, tag="source", frozen=True, omit_defaults=True):
    """The host's media changed. `code` in `ended` and `failed`: `source_ended`, `room_not_found`, `livekit_unauthorized`,
    `livekit_unreachable`.
    """

    phase: SourcePhase
    at: float
    code: str = ""
    detail: str = ""


class OutputMetrics(msgspec.Struct, frozen=True):
    """One output in one second. `rtt_ms` and `queue_ms` are milliseconds, the bytes are totals of the attempt."""

    output_id: str
    attempt: int
    bytes_sent: int
    bytes_acked: int
    bitrate_kbps: float
    fps: float
    dropped_frames: int
    rtt_ms: float
    queue_ms: float
    uptime_s: float


class MetricsLine(Line, tag="metrics", frozen=True, omit_defaults=True):
    """Each second. `source_fps`: frames that came from the room; `encode_load`: share of a core."""

    at: float
    outputs: list[OutputMetrics]
    source_fps: float = 0.0
    encode_load: float = 0.0
    rss_mib: float = 0.0


class WelcomeLine(Line, tag="welcome", frozen=True, omit_defaults=True):
    """What this relay is and does. `run_id` is another one in each process."""

    run_id: str
    pid: int
    configured: bool
    source: SourceLine
    outputs: list[OutputLine]


class RefusedLine(Line, tag="refused", frozen=True, omit_defaults=True):
    """A `HelloLine` of an epoch that is over."""

    epoch: int


class ByeLine(Line, tag="bye", frozen=True, omit_defaults=True):
    """The last line: the relay exits. `reason`: `stopped`, `abandoned` (no controller for 30 s), `crashed`."""

    reason: str


FromController = HelloLine | ConfigureLine | StartOutputLine | StopOutputLine | StopLine | PingLine
FromRelay = OutputLine | SourceLine | MetricsLine | WelcomeLine | RefusedLine | ByeLine

LINE_LIMIT = 64 * 1024
"""Bytes of a line."""

_to_relay = msgspec.json.Decoder(FromController)
_to_controller = msgspec.json.Decoder(FromRelay)
_encoder = msgspec.json.Encoder()


def encode(line: FromController | FromRelay) -> bytes:
    """One line with its end."""
    return _encoder.encode(line) + b"\n"


def read_by_relay(line: bytes) -> FromController:
    """A controller's line. Raises `msgspec.ValidationError`, `msgspec.DecodeError`, neither of which quotes values."""
    return _to_relay.decode(line)


def read_by_controller(line: bytes) -> FromRelay:
    """A relay's line. Raises as `read_by_relay`."""
    return _to_controller.decode(line)
