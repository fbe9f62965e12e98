"""Settings, one frozen class for each concern, read from the environment.

Why here: every part gets the settings it needs handed to it by `butai.cli`; nothing
reads the environment by itself, so a test can build any part with plain values.
A field's docstring is the operator's manual: it gives the unit and the reason for
the default. `docs/settings.md` is written from these (`make docs`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _env(prefix: str = "BUTAI_") -> SettingsConfigDict:
    return SettingsConfigDict(
        env_prefix=prefix,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        use_attribute_docstrings=True,
        populate_by_name=True,
    )


class DatabaseSettings(BaseSettings):
    """Where Postgres is (15 or newer)."""

    model_config = _env("BUTAI_DATABASE_")

    url: SecretStr = SecretStr("")
    """`postgresql://user:password@host:port/name`. `butai up` brings its own when this is empty."""

    pool_size: int = 10
    """Most connections of one process for queries, as many for transactions, and as many for single statements, which the API
    hardly uses. Ten keep two cores busy."""

    connect_timeout: float = 5.0
    """Seconds to wait for a free connection before the answer is 503."""


class StoreSettings(BaseSettings):
    """Where the object store is: any S3. The identity needs put, get, head, delete; never list."""

    model_config = _env("BUTAI_S3_")

    endpoint: str = ""
    """`http://127.0.0.1:9000`, or `https://s3.eu-west-1.amazonaws.com`. `butai up` brings its own when this is empty."""

    public_endpoint: str = ""
    """The same store as browsers reach it, for signed URLs; the endpoint above when empty."""

    region: str = "us-east-1"
    """The region that signatures name."""

    bucket: str = "media"
    """One bucket holds everything."""

    prefix: str = ""
    """Put before every object's key, so that a bucket can be shared (`studio/`)."""

    access_key_id: SecretStr = SecretStr("")
    """The access key."""

    secret_access_key: SecretStr = SecretStr("")
    """The secret that belongs to the access key."""

    session_token: SecretStr = SecretStr("")
    """For temporary credentials."""

    path_style: bool = True
    """`https://host/bucket/key` (true) or `https://bucket.host/key` (false). Every S3 but some AWS regions takes the first."""

    connect_timeout: float = 3.0
    """Seconds to reach the store."""

    read_timeout: float = 30.0
    """Seconds without a byte from the store before the transfer is given up (`store_timeout`)."""


class HttpSettings(BaseSettings):
    """How the API is served."""

    model_config = _env()

    host: str = "127.0.0.1"
    """The address to listen on. Loopback until somebody decides otherwise."""

    port: int = 8080
    """The port to listen on."""

    public_url: str = ""
    """How browsers reach the API (`https://studio.example`). Empty: as the request says."""

    cors_origins: tuple[str, ...] = ()
    """Other origins that may call the API with cookies, as a JSON list. A studio on the same origin needs none."""

    trusted_proxies: str = "127.0.0.1"
    """Addresses whose `X-Forwarded-For` is believed, separated by commas."""

    read_delivery: Literal["stream", "accel"] = "stream"
    """`stream`: this process carries the bodies. `accel`: it answers `X-Accel-Redirect` and nginx carries them
    (docs/nginx.conf)."""

    accel_prefix: str = "/_butai_store/"
    """The internal location of nginx that leads to the store, with `accel`."""

    access_log: bool = True
    """One line for each request."""


class IdentitySettings(BaseSettings):
    """Who may be believed."""

    model_config = _env()

    nextauth_secret: SecretStr = Field(SecretStr(""), validation_alias="NEXTAUTH_SECRET")
    """The studio's `NEXTAUTH_SECRET` (NextAuth 4). Several, separated by commas, while it is being changed. Stands in for
    `AUTH_SECRET` when that is empty, as in the studio's own package."""

    auth_secret: SecretStr = Field(SecretStr(""), validation_alias="AUTH_SECRET")
    """The studio's `AUTH_SECRET` (Auth.js 5). Several, separated by commas, while it is being changed. Stands in for
    `NEXTAUTH_SECRET` when that is empty."""

    oidc_issuer: str = ""
    """The OpenID Connect issuer whose bearer tokens are believed. Its `sub` must be the id that the studio's sessions carry."""

    oidc_audience: str = ""
    """The `aud` that those tokens must carry. Needed with an issuer. A token with `butai:operator` in its `scope` or `scp`
    is an operator's."""

    oidc_jwks_url: str = ""
    """Where the issuer's keys are; found by discovery when empty."""

    operators: tuple[str, ...] = ()
    """User ids that are operators when they are signed in by a session cookie, as a JSON list: they see everybody's files and
    shows, and the console's operations. Whoever may choose an id at sign-in must not be able to choose one of these."""

    dev_sign_in: bool = False
    """`/dev/sign-in` for callers on loopback: signs in as anybody. On in `butai up`; never in production."""


class AssetSettings(BaseSettings):
    """Limits and times of the library. Sizes are bytes."""

    model_config = _env()

    max_vrm_bytes: int = 200 * 1024**2
    """Largest avatar (the studios' limit today)."""

    max_animation_bytes: int = 200 * 1024**2
    """Largest animation."""

    max_bgm_bytes: int = 50 * 1024**2
    """Largest piece of music."""

    max_hdr_bytes: int = 100 * 1024**2
    """Largest sky."""

    max_scene_bytes: int = 200 * 1024**2
    """Largest scene."""

    max_sidecar_bytes: int = 10 * 1024**2
    """Largest `_thumb.png` or `_meta.json`."""

    upload_memory_bytes: int = 48 * 1024**2
    """Memory for the parts of all uploads of one process together; what does not fit waits in unlinked temporary files."""

    upload_idle_timeout: float = 60.0
    """Seconds without a byte from the client before an upload is given up (`client_disconnected`)."""

    upload_lease: float = 30.0
    """Seconds after which an upload whose process no longer reports is taken for dead. Renewed at a third of it."""

    presigned_expiry: int = 900
    """Seconds that a signed upload URL works (the contract's 900)."""

    trash_days: float = 30.0
    """Days between the trash and the purge."""

    default_visibility: Literal["public", "private"] = "private"
    """What an upload is until its owner says otherwise."""

    resumable_hours: float = 24.0
    """Hours for which an upload that was begun can be taken up again."""

    quota_bytes: int = 0
    """Most bytes of one user's files together, the trash and uploads under way counted; 0: no limit."""

    quota_files: int = 0
    """Most files of one user; 0: no limit."""


class PatrolSettings(BaseSettings):
    """The patrol, which looks for each object in the store."""

    model_config = _env("BUTAI_PATROL_")

    minutes: float = 60.0
    """Minutes between two runs, and between two looks at a file that is in use."""

    cold_hours: float = 24.0
    """Hours between two looks at a file that nobody has read for a day."""

    rate: float = 500.0
    """Most objects that are looked for in a second; 0: no limit."""

    recheck_minutes: float = 10.0
    """Where the store answers 403 for what is not there: minutes between the two looks that make a file missing."""


class AlertSettings(BaseSettings):
    """Who is told when something is wrong."""

    model_config = _env("BUTAI_ALERT_")

    urls: SecretStr = SecretStr("")
    """Apprise URLs (`discord://…`, `slack://…`, `mailto://…`, `json://host/path`), separated by spaces or commas. Empty:
    alerts are kept and shown, and nobody is told."""

    upload_failures: int = 5
    """So many uploads that fail for one reason of ours within fifteen minutes are an alert."""

    stale_hours: float = 2.0
    """Hours without a finished patrol that are an alert."""


class LogSettings(BaseSettings):
    """What is written to stderr."""

    model_config = _env("BUTAI_LOG_")

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe event that is written."""

    format: Literal["json", "text"] = "json"
    """`json`: one object a line, for machines. `text`: for a person at a terminal."""


class LiveKitSettings(BaseSettings):
    """Where LiveKit is, under LiveKit's own names."""

    model_config = _env("LIVEKIT_")

    url: str = ""
    """`ws://…` or `wss://…`."""

    api_key: str = ""
    """The API key."""

    api_secret: SecretStr = SecretStr("")
    """The secret that belongs to it."""


class RetrySettings(BaseModel):
    """When an output that broke is tried again: full jitter over the upper half of min(cap, base·2ⁿ)."""

    model_config = ConfigDict(frozen=True)

    base: float = 1.0
    """Seconds before the second try."""

    cap: float = 60.0
    """Longest wait in seconds."""

    attempts: int = 10
    """Tries until the budget is spent."""

    minutes: float = 10.0
    """Minutes until the budget is spent."""

    stable: float = 60.0
    """Seconds of unbroken live that give the budget back."""

    least_wait: float = 0.0
    """Seconds between two tries at the least."""

    window: float = 0.0
    """After having been live: at least `window_tries` fall into so many seconds."""

    window_tries: int = 0


class LiveSettings(BaseSettings):
    """Going live. Times are seconds."""

    model_config = _env()

    egress: Literal["relay", "livekit"] = "relay"
    """Which engine carries new broadcasts: `relay` is built in, `livekit` is LiveKit Egress. What is on air stays where it
    is."""

    livekit_public_url: str = ""
    """LiveKit as browsers reach it (`wss://…`); `LIVEKIT_URL` when empty."""

    livekit_projects_file: Path | None = None
    """Further LiveKit projects and keys, as JSON; read anew when it changes, so keys are exchanged without a restart."""

    livekit_source: Literal["media", "participant", "room_composite", "web"] = "media"
    """What LiveKit Egress sends: `media` the host's tracks (it waits for a host who reloads), `participant` the same until
    the host leaves, `room_composite` a page with everybody, `web` a page of your own."""

    livekit_layout: str = "speaker"
    """Of `room_composite`: `speaker`, `single-speaker`, `grid`, with `-light` or `-dark`, or a template's own."""

    livekit_template_url: str = ""
    """A template for `room_composite`, in place of LiveKit's own; for `web`, the page, in which `{room_id}` is the room."""

    livekit_shared: bool = False
    """One encode for all outputs of a broadcast, where each otherwise has an egress of its own. Cheaper; one that connects
    holds back the news of the others, and the last failure ends all (docs/live.md)."""

    webhook_days: float = 7.0
    """Days for which LiveKit's webhooks are kept."""

    secret_key: SecretStr = SecretStr("")
    """Seals stream keys (32 bytes, base64 or hexadecimal). Several, separated by commas: the first seals, all open; put a
    new one first to rotate. Empty: `secret_key_file`."""

    secret_key_file: Path | None = None
    """Made at first use when nothing is there. `butai up` keeps it in its data folder."""

    allow_private_ingest: bool = False
    """Whether destinations may be on private or loopback addresses. On in `butai up`."""

    preset: Literal["720p30", "720p60", "1080p30", "1080p60"] = "720p30"
    """What is encoded when a host says nothing else."""

    source_grace: float = 60.0
    """How long the last picture and silence go out after the host's media stopped."""

    on_source_lost: Literal["end", "stay"] = "end"
    """What happens then: the broadcast ends, or stays up until it is stopped."""

    host_token_hours: float = 12.0
    """How long a host token works. The room's signed-in owner gets another one at any time."""

    youtube_ingest_url: str = "rtmps://a.rtmps.youtube.com:443/live2"
    """Where YouTube takes broadcasts (YouTube's own address)."""

    youtube_backup_ingest_url: str = "rtmps://b.rtmps.youtube.com:443/live2?backup=1"
    """Its second door, tried in turn with the first."""

    youtube_stream_key: SecretStr = SecretStr("")
    """A key for hosts who have saved no YouTube destination of their own."""

    twitch_ingest_url: str = "rtmps://ingest.global-contribute.live-video.net:443/app"
    """Where Twitch takes broadcasts (Twitch's nearest by DNS)."""

    twitch_stream_key: SecretStr = SecretStr("")
    """A key for hosts who have saved no Twitch destination of their own."""

    youtube_retry: RetrySettings = RetrySettings(least_wait=10.0)
    """As a JSON object. YouTube wants at least 10 s between tries."""

    twitch_retry: RetrySettings = RetrySettings(window=90.0, window_tries=4)
    """As a JSON object. Twitch keeps the viewers for about 90 s."""

    custom_retry: RetrySettings = RetrySettings()
    """As a JSON object."""

    lease: float = 3.0
    """How long a controller that no longer speaks keeps its broadcasts. A third of it is the time between renewals."""

    relay_folder: Path | None = None
    """Where relays have their sockets, for this user alone; a folder in /tmp, named after the user, when empty. Short:
    a socket's path has at most 107 bytes."""

    @model_validator(mode="after")
    def _page(self) -> LiveSettings:
        if self.livekit_source == "web" and not self.livekit_template_url:
            raise ValueError("BUTAI_LIVEKIT_SOURCE=web shows a page: name it in BUTAI_LIVEKIT_TEMPLATE_URL")
        return self


class UpSettings(BaseSettings):
    """`butai up`: everything on one machine."""

    model_config = _env()

    data_dir: Path = Path(".butai")
    """Where the embedded Postgres and store keep their files."""


@dataclass(frozen=True)
class Settings:
    """All of them, read once from the environment; tests hand in parts of their own."""

    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    identity: IdentitySettings = field(default_factory=lambda: IdentitySettings())  # pyright: ignore[reportCallIssue]
    assets: AssetSettings = field(default_factory=AssetSettings)
    patrol: PatrolSettings = field(default_factory=PatrolSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    log: LogSettings = field(default_factory=LogSettings)
    livekit: LiveKitSettings = field(default_factory=LiveKitSettings)
    live: LiveSettings = field(default_factory=LiveSettings)
    up: UpSettings = field(default_factory=UpSettings)

    def secrets(self) -> list[str]:
        """Every secret value, for the log to leave out."""
        found: list[str] = []
        for part in fields(self):
            settings = getattr(self, part.name)
            for name in type(settings).model_fields:
                value = getattr(settings, name)
                if isinstance(value, SecretStr):
                    found += re.split(r"[,\s]+", value.get_secret_value())
        return [value for value in found if value]
