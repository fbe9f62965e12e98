"""The protocol between a controller and a relay: JSON lines over a unix socket.

The relay listens (`<folder>/<broadcast_id>.sock`, mode 0600), since it outlives its controller: the next holder of the
broadcast's lease connects and continues. Stream keys are sent here only, never in argv or the environment.

A controller's first line is `HelloLine`, with the epoch of its lease. A relay refuses an epoch lower than the highest
it has seen (`RefusedLine`, then it disconnects), and a new `HelloLine` ends the previous connection, so at most one
controller is obeyed. The relay answers with `WelcomeLine`, its present state. A relay that is not configured is then
sent `ConfigureLine`.

Times are seconds since 1970, as floats. Fields that a side does not know are ignored, and missing ones take their
defaults, so that a controller and a relay of neighbouring versions work together.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from butai.relay.timing import RelayTiming

OutputPhase = Literal["connecting", "publishing", "live", "stalled", "failed", "ended"]
"""The phases of an attempt. `connecting`: DNS, TCP, TLS, RTMP handshake. `publishing`: the platform accepted the
publish, and has acknowledged nothing. `live`: it acknowledges media. `stalled`: it was live and accepts no bytes.
`failed`, `ended`: final."""

SourcePhase = Literal["connecting", "waiting", "live", "lost", "ended", "failed"]
"""The phases of the host's media. `waiting`: the room is joined, no media yet. `live`: media arrive. `lost`: they
stopped; the last picture and silence are sent. `ended`: the room was deleted, or the host was away longer than the
grace. `failed`: the room cannot be joined."""


SourceKind = Literal["room", "egress", "encoder"]
"""The sources of a relay. `room`: a LiveKit room, decoded and encoded; `egress`, `encoder`: LiveKit Egress, or a host's encoder,
that publishes to the ingest."""


class Line(msgspec.Struct, tag_field="type", frozen=True, omit_defaults=True):
    """One line of the protocol."""


class Preset(msgspec.Struct, frozen=True):
    """The encoding: size in pixels, frames per second, kilobits per second, samples per second."""

    width: int
    height: int
    fps: int
    video_kbps: int
    audio_kbps: int = 128
    audio_rate: int = 48000


# Lines of the controller


class HelloLine(Line, tag="hello", frozen=True, omit_defaults=True):
    """The first line: the controller's name, and the epoch of its lease."""

    controller: str
    epoch: int


class HeldOutput(msgspec.Struct, frozen=True, omit_defaults=True):
    """An output that waits for the first picture. `server`: its ingest URL without application and key; `allow_private`: as
    of `StartOutputLine`."""

    output_id: str
    server: str
    allow_private: bool = False


MOST_HELD = 100
"""Outputs whose servers one relay checks at most: all of them fit into a line."""


class ConfigureLine(Line, tag="configure", frozen=True, omit_defaults=True):
    """The broadcast to publish. A configured relay takes only the tokens and `held` from a second one.

    `token`: joins the room hidden, and may only subscribe. `spare_token`: the same with another identity; without it the
    relay cannot join a second time before it leaves. `video_source`: `camera`, `screen_share` or `any`;
    `video_name`: a track of this name is preferred to all others. `grace`: seconds without the host's media until the
    phase is `ended`, if `on_lost` is `end`; with `stay` it remains `lost`. `timing`: the relay's durations from now on,
    so that they match those of the controller; a relay that does not know the field, or one of its fields, uses its own
    defaults."""

    broadcast_id: str
    livekit_url: str
    token: str
    host_identity: str
    preset: Preset
    video_source: str = "any"
    video_name: str = ""
    grace: float = 60.0
    on_lost: Literal["end", "stay"] = "end"
    timing: RelayTiming = RelayTiming()
    sound_only: bool = False
    """Whether sound alone is enough for `SourceLine.ready`."""
    room_made: bool = False
    """Whether the controller makes the room again where LiveKit has none (`room_not_found`): the relay tries on."""
    spare_token: str = ""
    source: SourceKind = "room"
    """What the media come from: the room; or a publisher of the ingest, whose H.264 and AAC are passed on as they are, and for
    which room, tokens and preset are not used."""
    held: list[HeldOutput] = []
    """The outputs whose servers are checked from now on (`reachability`), and no others."""

    def __repr__(self) -> str:
        return f"ConfigureLine({self.broadcast_id})"


class StartOutputLine(Line, tag="start_output", frozen=True, omit_defaults=True):
    """Begins an attempt, after ending an older one of this output. No-op for an attempt that the relay knows.

    `url`: the ingest URL as it is stored; `key`: what was sealed with it. `allow_private`: loopback and private addresses
    are allowed. `hurried`: the platform keeps its viewers for a short time only (`Limits.hurried_publish_timeout`).
    """

    output_id: str
    attempt: int
    url: str
    key: str
    allow_private: bool = False
    hurried: bool = False

    def __repr__(self) -> str:
        return f"StartOutputLine({self.output_id}, {self.attempt})"


class StopOutputLine(Line, tag="stop_output", frozen=True, omit_defaults=True):
    """Ends an output's push. Answered by `OutputLine` with `ended`, also if nothing was pushed."""

    output_id: str


class StopLine(Line, tag="stop", frozen=True, omit_defaults=True):
    """Ends all pushes and the relay. Answered by `ByeLine`."""


class PingLine(Line, tag="ping", frozen=True, omit_defaults=True):
    """A keep-alive. A relay that gets no line for `RelayTiming.abandoned_after` (30 s) ends by itself."""


# Lines of the relay


class OutputLine(Line, tag="output", frozen=True, omit_defaults=True):
    """A change of an output's attempt. `code`: an error code (docs/live.md) with `failed` and `stalled`. `detail`: for
    operators, without the stream key. `if_key_worked`: the code in place of `code`, if the platform accepted the key
    before in this broadcast, which the controller knows; empty for the same.

    Attempt 0 is none: `connecting` tells what a check of a held output's server found, with a `code` where it cannot be
    reached. `ended` answers the stop of an output that is not known.
    """

    output_id: str
    attempt: int
    phase: OutputPhase
    at: float
    code: str = ""
    detail: str = ""
    if_key_worked: str = ""
    number: int = 0
    """Rises with each line of a relay. 0: from a relay of an older version."""
    mono: float = 0.0
    """The time of the change on the machine's monotonic clock, which all its processes share; `at` may be of a clock that
    was set since. 0: not known."""


class SourceLine(Line, tag="source", frozen=True, omit_defaults=True):
    """A change of the host's media. `code` with `failed`: `room_not_found`, `livekit_unauthorized`, `livekit_unreachable`;
    with `ended`: `source_ended`, or `no_media` where none ever came; with `waiting` and `lost`: `room_not_found` while a
    room that Butai made is missing. With any phase but `failed`, what is wrong with the media: `media_encrypted`,
    `codec_unsupported`, `no_picture`; with `live`, of the sound only. Of a publisher of the ingest: `source_closed`,
    `source_quiet` with `waiting` and `lost`, `no_audio` with `live`.
    """

    phase: SourcePhase
    at: float
    code: str = ""
    detail: str = ""
    mono: float = 0.0
    """As of `OutputLine`."""
    ready: bool | None = None
    """Whether a picture has come since the relay began, so that outputs do not begin with black. None: not known."""


class OutputMetrics(msgspec.Struct, frozen=True):
    """One output's metrics over one second. Bytes are totals of the attempt."""

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


class SourceDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the source on air sends. `id`, `label`, `since` (seconds since 1970): of its `Hello`; `standby`: how many others are
    connected; `codec` and sizes as they arrive; `keyframe_s`: from key frame to key frame; `warnings`: codes of what platforms
    may not take. 0 and empty for what is not known."""

    kind: SourceKind
    id: str = ""
    label: str = ""
    since: float = 0.0
    standby: int = 0
    codec: str = ""
    width: int = 0
    height: int = 0
    fps: float = 0.0
    kbps: int = 0
    keyframe_s: float = 0.0
    sound_codec: str = ""
    sound_rate: int = 0
    sound_channels: int = 0
    warnings: list[str] = []


class MetricsLine(Line, tag="metrics", frozen=True, omit_defaults=True):
    """Metrics, each second. `source_fps`: frames received from the source; `encode_load`: share of a core; `late_ms`: the
    most by which the encoder took a picture late within that second; `skipped_frames`: all pictures that were left out,
    being too late."""

    at: float
    outputs: list[OutputMetrics]
    source_fps: float = 0.0
    encode_load: float = 0.0
    rss_mib: float = 0.0
    late_ms: float = 0.0
    skipped_frames: int = 0
    source: SourceDetails | None = None
    """None where nothing is connected."""


class WelcomeLine(Line, tag="welcome", frozen=True, omit_defaults=True):
    """The relay's state at the beginning of a connection. `run_id`: unique for each process."""

    run_id: str
    pid: int
    configured: bool
    source: SourceLine
    outputs: list[OutputLine]


class RefusedLine(Line, tag="refused", frozen=True, omit_defaults=True):
    """Refuses a `HelloLine` with an epoch lower than `epoch`."""

    epoch: int


class ByeLine(Line, tag="bye", frozen=True, omit_defaults=True):
    """The last line before the relay exits. `reason`: `stopped`, `abandoned` (no line of a controller for 30 s),
    `crashed`."""

    reason: str


FromController = HelloLine | ConfigureLine | StartOutputLine | StopOutputLine | StopLine | PingLine
FromRelay = OutputLine | SourceLine | MetricsLine | WelcomeLine | RefusedLine | ByeLine

LINE_LIMIT = 64 * 1024
"""The longest line, in bytes."""

_to_relay = msgspec.json.Decoder(FromController)
_to_controller = msgspec.json.Decoder(FromRelay)
_encoder = msgspec.json.Encoder()


def encode(line: FromController | FromRelay) -> bytes:
    """A line as bytes, newline included."""
    return _encoder.encode(line) + b"\n"


def read_by_relay(line: bytes) -> FromController:
    """Decodes a controller's line. Raises `msgspec.ValidationError` or `DecodeError`, neither of which quotes
    values."""
    return _to_relay.decode(line)


def read_by_controller(line: bytes) -> FromRelay:
    """Decodes a relay's line. Raises as `read_by_relay`."""
    return _to_controller.decode(line)
