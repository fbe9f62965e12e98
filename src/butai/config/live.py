"""Going live."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from butai.config.environment import Section, section_config


class RetrySettings(BaseModel):
    """When a broken output is tried again: full jitter over the upper half of min(cap, base·2ⁿ)."""

    model_config = ConfigDict(frozen=True)

    base: float = 1.0
    """Seconds before the second attempt."""

    cap: float = 60.0
    """Longest wait in seconds."""

    attempts: int = 10
    """Attempts until the budget is spent."""

    minutes: float = 10.0
    """Minutes until the budget is spent."""

    stable: float = 60.0
    """Seconds of uninterrupted live after which the budget is full again."""

    least_wait: float = 0.0
    """Least seconds between two attempts."""

    window: float = 0.0
    """For an output that has been live: seconds within which at least `window_tries` attempts are made; 0: no such
    rule."""

    window_tries: int = 0


class LiveSettings(Section):
    """Going live. Times are seconds."""

    model_config = section_config()

    egress: Literal["relay", "livekit"] = "relay"
    """Which engine carries new broadcasts: `relay` is built in, `livekit` is LiveKit Egress. Broadcasts that are on air
    keep their engine."""

    livekit_public_url: str = ""
    """The URL by which browsers reach LiveKit (`wss://…`); `LIVEKIT_URL` when empty."""

    livekit_projects_file: Path | None = None
    """Further LiveKit projects and keys, as JSON; read again when the file changes, so keys are rotated without a
    restart."""

    livekit_source: Literal["media", "participant", "room_composite", "web"] = "media"
    """What LiveKit Egress sends: `media` the host's tracks (it waits for a host who reloads), `participant` the same
    until the host leaves, `room_composite` a page with all participants, `web` a page of your own."""

    livekit_layout: str = "speaker"
    """The layout of `room_composite`: `speaker`, `single-speaker`, `grid`, with `-light` or `-dark`, or a template's
    own."""

    livekit_template_url: str = ""
    """For `room_composite`, a template in place of LiveKit's own; for `web`, the page, in which `{room_id}` is the
    room."""

    livekit_shared: bool = False
    """Whether all outputs of a broadcast share one encode, where otherwise each has an egress of its own. Cheaper; but
    an output that is connecting delays the reports of the others, and the last failure ends all of them
    (docs/live.md)."""

    max_rooms: Annotated[int, Field(ge=1)] = 1_000
    """Most rooms of one user that are not closed: three shows a day for a year, each in a room of its own."""

    max_invitations: Annotated[int, Field(ge=1)] = 5_000
    """Most invitations and viewers' tokens of one room whose time (twelve hours at most) has not passed, including those that
    were taken back: one link is enough for any number of viewers, and a studio may make a token for each of 5,000."""

    max_streams: Annotated[int, Field(ge=1)] = 50
    """Most event streams of one user, or of one room's host token, that are open at one API process: a studio's tabs on
    several machines."""

    webhook_days: float = 7.0
    """Days for which LiveKit's webhooks are kept."""

    secret_key: SecretStr = SecretStr("")
    """Seals stream keys (32 bytes, base64 or hexadecimal). Several, separated by commas: the first seals, all open; to
    rotate, put a new one first. When empty, `secret_key_file` is used."""

    secret_key_file: Path | None = None
    """A file with the secret key, created at first use if it does not exist. `butai up` keeps it in its data folder."""

    allow_private_ingest: bool = False
    """Whether destinations may be on private or loopback addresses. On in `butai up` while it listens on loopback. Link-local
    addresses and those of clouds' metadata services are never allowed."""

    preset: Literal["480p30", "720p30", "720p60", "1080p30", "1080p60"] = "720p30"
    """The encoding of a broadcast whose host chooses none."""

    source_grace: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """Seconds for which the last picture and silence are sent after the host's media stopped; at most an hour."""

    on_source_lost: Literal["end", "stay"] = "end"
    """What happens after the grace: the broadcast ends, or stays up until it is stopped."""

    hold_until_media: bool = True
    """Whether the outputs of a broadcast wait for the host's first picture: until then they are `starting` with `no_media`, and
    make no attempt. Otherwise platforms receive a black picture. A start may say otherwise. Of the relay only."""

    host_token_hours: float = 12.0
    """Hours for which a host token works. The room's signed-in owner can get another one at any time."""

    youtube_ingest_url: str = "rtmps://a.rtmps.youtube.com:443/live2"
    """YouTube's ingest URL (the address that YouTube publishes)."""

    youtube_backup_ingest_url: str = "rtmps://b.rtmps.youtube.com:443/live2?backup=1"
    """YouTube's backup ingest URL, tried in turn with the first."""

    youtube_stream_key: SecretStr = SecretStr("")
    """A stream key for hosts who have saved no YouTube destination."""

    twitch_ingest_url: str = "rtmps://ingest.global-contribute.live-video.net:443/app"
    """Twitch's ingest URL (the nearest ingest by DNS)."""

    twitch_stream_key: SecretStr = SecretStr("")
    """A stream key for hosts who have saved no Twitch destination."""

    youtube_retry: RetrySettings = RetrySettings(least_wait=10.0)
    """Retries of outputs to YouTube, as a JSON object. YouTube wants at least 10 s between attempts."""

    twitch_retry: RetrySettings = RetrySettings(window=90.0, window_tries=4)
    """Retries of outputs to Twitch, as a JSON object. Twitch keeps the viewers for about 90 s."""

    custom_retry: RetrySettings = RetrySettings()
    """Retries of outputs to other RTMP servers, as a JSON object."""

    lease: float = 3.0
    """Seconds for which a silent controller keeps its broadcasts. Leases are renewed at a third of this time."""

    capacity: Annotated[float, Field(ge=0)] | None = None
    """Cores that a controller has for relays, of which each takes what was measured: a third of one at 720p30. Broadcasts
    for which no controller has room wait, or are refused. When empty: the cores that the process may use (CPU affinity,
    cgroup), less `capacity_reserve`. With 0 a controller takes no new broadcasts; with more, at least one."""

    capacity_reserve: Annotated[float, Field(ge=0)] = 0.25
    """Cores that are left to other programs on a controller's machine, when `capacity` is empty. `butai up`, whose API,
    Postgres, store and LiveKit run there too, takes 0.5 unless it is set."""

    admit_when_late: bool = False
    """Whether a controller takes newcomers as they are while pictures are encoded late here. Otherwise they get the next lower
    preset, and none is taken while pictures are lost."""

    relay_standby: bool = True
    """Whether a controller has one relay process loaded while a broadcast may begin soon, so that it begins a second or more
    earlier: for 15 minutes after a room or a host token was made, or a broadcast ended. It takes about 50 MiB, and is no
    broadcast: `capacity` does not count it."""

    relay_folder: Path | None = None
    """The folder of the relays' sockets, open to this user alone; when empty, a folder in /tmp named after the user.
    The path must be short: a socket's path has at most 107 bytes."""

    @model_validator(mode="after")
    def _page(self) -> LiveSettings:
        if self.livekit_source == "web" and not self.livekit_template_url:
            raise ValueError("BUTAI_LIVEKIT_SOURCE=web shows a page: name it in BUTAI_LIVEKIT_TEMPLATE_URL")
        return self
