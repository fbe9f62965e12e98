"""Settings, one frozen class for each concern, read from the environment.

The settings are here because every part gets those that it needs as arguments from `butai.cli`; no part reads the
environment by itself, so a test can build any part with plain values.
A field's docstring is the operator's manual: it gives the unit and the reason for
the default. `docs/settings.md` is written from these (`make docs`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

SECRETS_FILE = "BUTAI_SECRETS_FILE"
"""The variable that names a file of further settings: one JSON object of names, as they are in the environment, and texts. The
environment of a process is readable by every process of the same user, for as long as it runs; such a file is opened
once."""

_OWN_DESCRIPTOR = re.compile(r"/proc/self/fd/(\d+)")
_read_files: dict[str, Mapping[str, str]] = {}


def settings_of_file() -> Mapping[str, str]:
    """The settings in the file that `BUTAI_SECRETS_FILE` names, read once; a descriptor that was inherited for it is closed then.
    Raises `SettingsError`."""
    path = os.environ.get(SECRETS_FILE, "")
    if not path:
        return {}
    if path not in _read_files:
        try:
            found = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise SettingsError(f"{SECRETS_FILE}: the file cannot be read: {type(error).__name__}") from None
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            raise SettingsError(f"{SECRETS_FILE}: the file is not a JSON object of texts")
        if own := _OWN_DESCRIPTOR.fullmatch(path):
            os.close(int(own[1]))
        _read_files[path] = found
    return _read_files[path]


class _EnvironmentAndFile(EnvSettingsSource):
    """The environment, and the file that it names; what stands in both is taken from the file."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        known = settings_of_file()
        names = {name.lower(): value for name, value in known.items()}
        return {**super()._load_env_vars(), **{name: value for name, value in names.items() if value}}


class _Section(BaseSettings):
    """One concern's settings, from the environment and the file of secrets."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - given by name
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _EnvironmentAndFile(settings_cls)


def _env(prefix: str = "BUTAI_") -> SettingsConfigDict:
    return SettingsConfigDict(
        env_prefix=prefix,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        use_attribute_docstrings=True,
        populate_by_name=True,
    )


class DatabaseSettings(_Section):
    """Where Postgres (15 or newer) is."""

    model_config = _env("BUTAI_DATABASE_")

    url: SecretStr = SecretStr("")
    """`postgresql://user:password@host:port/name`. When empty, `butai up` starts a Postgres of its own."""

    pool_size: int = 10
    """Most connections of one process for queries; as many again for transactions, and as many for single statements,
    of which the API has few. Ten keep two cores busy."""

    connect_timeout: float = 5.0
    """Seconds to wait for a free connection before the answer is 503."""


class StoreSettings(_Section):
    """Where the object store is: any S3. Its access key needs the rights to put, get, head and delete, but not to list."""

    model_config = _env("BUTAI_S3_")

    endpoint: str = ""
    """`http://127.0.0.1:9000`, or `https://s3.eu-west-1.amazonaws.com`. When empty, `butai up` starts a store of its
    own."""

    public_endpoint: str = ""
    """The same store as browsers reach it, for signed URLs; the endpoint above when empty."""

    region: str = "us-east-1"
    """The region that signatures name."""

    bucket: str = "media"
    """One bucket holds everything."""

    prefix: str = ""
    """Prefix of every object key, so that a bucket can be shared (`studio/`)."""

    access_key_id: SecretStr = SecretStr("")
    """The access key."""

    secret_access_key: SecretStr = SecretStr("")
    """The secret that belongs to the access key."""

    session_token: SecretStr = SecretStr("")
    """The session token of temporary credentials."""

    path_style: bool = True
    """`https://host/bucket/key` (true) or `https://bucket.host/key` (false). Every S3 but some AWS regions takes the
    first form."""

    connect_timeout: float = 3.0
    """Seconds to reach the store."""

    read_timeout: float = 30.0
    """Seconds without a byte from the store after which a transfer is given up (`store_timeout`)."""


def _site(url: str) -> SplitResult | None:
    """The parts of an http or https URL with a host and no user; None for all other texts."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    good = parts.scheme in ("http", "https") and parts.hostname and parts.username is None and port != 0
    return parts if good and not re.search(r"\s", url) else None


class HttpSettings(_Section):
    """How the API is served."""

    model_config = _env()

    host: str = "127.0.0.1"
    """The address to listen on. The default is loopback, so that opening the service to a network is a decision."""

    port: int = 8080
    """The port to listen on."""

    public_url: str = ""
    """The URL by which browsers reach the API (`https://studio.example`). When empty, it is taken from each request. Its
    host is an allowed one; with https, browsers are told to use nothing else (HSTS)."""

    allowed_hosts: tuple[str, ...] = ()
    """Further host names and addresses under which the API answers, without ports, as a JSON list
    (`["api.studio.internal", "10.0.0.5"]`). The host of BUTAI_PUBLIC_URL is allowed without being named here, and so are
    loopback names while the API listens on loopback. Requests for all others are answered with 421, except `/healthz`,
    `/readyz` and LiveKit's webhook. Prometheus asks by the name or address in its configuration: name that one."""

    cors_origins: tuple[str, ...] = ()
    """Other origins that may call the API with cookies, as a JSON list (`["https://www.studio.example"]`); `*` is refused. A
    studio on the same origin needs none."""

    trusted_proxies: str = ""
    """Addresses of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed, separated by commas. None by
    default: without a proxy in between, the caller writes these headers."""

    read_delivery: Literal["stream", "accel"] = "stream"
    """`stream`: this process carries the bodies. `accel`: it answers `X-Accel-Redirect` and nginx carries them
    (docs/nginx.conf)."""

    accel_prefix: str = "/_butai_store/"
    """The internal location of nginx that leads to the store, with `accel`."""

    access_log: bool = True
    """Whether each request is logged, in one line."""

    max_connections: Annotated[int, Field(ge=1)] = 4096
    """Most connections of one API process at once; fewer where it may open few files (`ulimit -n`), since each may need
    another one to the store. Idle ones are closed to make room. Beyond the limit the answer is 503
    `too_many_connections`, but to `/healthz`. A browser has six, and one more for each event stream: 4,096 are 500
    people at once."""

    max_connections_per_address: Annotated[int, Field(ge=1)] = 512
    """Most of them, and most requests under way, of one address (of one network of 64 bits in IPv6). With two tabs open a
    person has up to eight: an office of 60 behind one address has 480. Behind a proxy it is the forwarded address, if
    BUTAI_TRUSTED_PROXIES names the proxy; otherwise all callers are one address."""

    @field_validator("public_url")
    @classmethod
    def _url_of_a_site(cls, value: str) -> str:
        if value and not _site(value):
            raise ValueError(f"{value!r} is not a URL of a site, such as https://studio.example")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "*" in value:
            raise ValueError("* would let every site read with its visitor's session: name the origins")
        for origin in value:
            parts = _site(origin)
            if not parts or parts.path not in ("", "/") or parts.query or parts.fragment or "*" in parts.netloc:
                raise ValueError(f"{origin!r} is not an origin, such as https://www.studio.example")
        # As browsers spell an origin: they are compared as texts.
        return tuple(origin.rstrip("/").lower() for origin in value)

    @field_validator("allowed_hosts")
    @classmethod
    def _host_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(name.lower().strip("[]") for name in value)
        for name in names:
            if not re.fullmatch(r"[a-z0-9._-]{1,253}|[0-9a-f:.]{2,45}", name):
                raise ValueError(f"{name!r} is not a host name or an address, without a port, such as studio.example")
        return names


class Rate(BaseModel):
    """A token bucket: `burst` requests at once, and `per_second` new ones; 0: no limit."""

    model_config = ConfigDict(frozen=True)

    burst: int = Field(ge=1)
    per_second: float = Field(ge=0)


class RateSettings(_Section):
    """How often one caller, or one address, may ask, as JSON objects: `{"burst": 120, "per_second": 2}`, or
    `{"burst": 1, "per_second": 0}` for no limit. Beyond it the answer is 429 `rate_limited` with `Retry-After`. Each API
    process counts by itself, in memory."""

    model_config = _env("BUTAI_RATE_")

    write: Rate = Rate(burst=12_000, per_second=50)
    """A user's writes to the library, and tokens for a room: all 5,000 files of a quota at once, each with two requests,
    and some that are repeated."""

    begin: Rate = Rate(burst=120, per_second=2)
    """What a user, or a room's host token, begins, changes and ends in going live: rooms, broadcasts, outputs, ingresses,
    destinations. A show takes about ten."""

    test: Rate = Rate(burst=20, per_second=0.2)
    """A user's tests of destinations, which connect to other servers: one each five seconds."""

    stream: Rate = Rate(burst=120, per_second=2)
    """Event streams that a user opens: thirty tabs that reconnect four times at once, then one each half a second."""

    anonymous: Rate = Rate(burst=3_000, per_second=100)
    """Requests of an address without a credential: an office of thirty that opens a page of 100 pictures at once."""

    invitation: Rate = Rate(burst=120, per_second=2)
    """Viewers' tokens that an address gets by invitation: a class of 120 that joins in one moment, and 120 a minute."""

    guess: Rate = Rate(burst=30, per_second=0.5)
    """API keys from an address that are none. A key that was accepted within the last hour goes on working."""

    probe: Rate = Rate(burst=50, per_second=5)
    """`/readyz` and `/metrics` for an address: five load balancers that ask each second."""


class IdentitySettings(_Section):
    """Which credentials are accepted."""

    model_config = _env()

    nextauth_secret: SecretStr = Field(SecretStr(""), validation_alias="NEXTAUTH_SECRET")
    """The studio's `NEXTAUTH_SECRET` (NextAuth 4). Several, separated by commas, while it is being changed. Used in
    place of `AUTH_SECRET` when that is empty, as in the studio's own package."""

    auth_secret: SecretStr = Field(SecretStr(""), validation_alias="AUTH_SECRET")
    """The studio's `AUTH_SECRET` (Auth.js 5). Several, separated by commas, while it is being changed. Used in place of
    `NEXTAUTH_SECRET` when that is empty."""

    oidc_issuer: str = ""
    """The OpenID Connect issuer whose bearer tokens are accepted. Its `sub` must be the id that the studio's sessions
    carry."""

    oidc_audience: str = ""
    """The `aud` that those tokens must carry. Required with an issuer. A token with `butai:operator` in its `scope` or
    `scp` makes the caller an operator."""

    oidc_jwks_url: str = ""
    """The URL of the issuer's keys; found by discovery when empty."""

    operators: tuple[str, ...] = ()
    """User ids that are operators when they are signed in by a session cookie, as a JSON list. Operators see the files
    and broadcasts of all users, and the console's operations. If users choose their ids at sign-in, these ids must be
    reserved."""

    dev_sign_in: bool = False
    """Sign-in by the one-time links that `butai up` and `butai sign-in` print, for callers on loopback. Any user of the
    machine who may write to the folder `sign-in` below BUTAI_DATA_DIR can sign in as any user. On in `butai up`; never in
    production."""


class AssetSettings(_Section):
    """Limits and times of the library. Sizes are bytes."""

    model_config = _env()

    max_vrm_bytes: int = 200 * 1024**2
    """Largest avatar (the studios' limit today)."""

    max_animation_bytes: int = 200 * 1024**2
    """Largest animation file."""

    max_bgm_bytes: int = 50 * 1024**2
    """Largest background music file."""

    max_hdr_bytes: int = 100 * 1024**2
    """Largest HDR environment."""

    max_scene_bytes: int = 200 * 1024**2
    """Largest scene."""

    max_sidecar_bytes: int = 10 * 1024**2
    """Largest `_thumb.png` or `_meta.json`."""

    upload_memory_bytes: int = 48 * 1024**2
    """Memory for the parts of all uploads of one process together; what does not fit waits in unlinked temporary
    files."""

    upload_idle_timeout: float = 30.0
    """Seconds without a byte from the client before an upload is given up (`client_disconnected`). One that sends less than
    4 KiB/s ends as well, after a minute (`request_timeout`)."""

    upload_lease: float = 30.0
    """Seconds without a sign of life from an upload's process after which the upload counts as dead. The process renews
    it at a third of this time."""

    presigned_expiry: int = 900
    """Seconds that a signed upload URL works (the contract's 900)."""

    trash_days: float = 30.0
    """Days between the trash and the purge, and for which a failed upload is shown."""

    default_visibility: Literal["public", "private"] = "private"
    """The visibility of a new upload until its owner changes it."""

    resumable_hours: float = 24.0
    """Hours for which an interrupted tus upload can be resumed."""

    open_uploads: int = 200
    """Most uploads of one user that are begun and not ended, resumable or by a signed URL or a form, before the next one is
    refused (`quota_exceeded`); 0: no limit. A studio that sends a folder has a few open at a time."""

    quota_bytes: int = 20 * 1024**3
    """Most bytes of one user's files together, including the trash, uploads in progress, replaced files until they are
    removed (ten minutes), and whatever a signed URL may still write; 0: no limit, as in `butai up`. 20 GiB
    are a hundred of the largest avatars, or a thousand usual ones."""

    quota_files: int = 5_000
    """Most files of one user, including failed uploads, which are purged as the trash is; 0: no limit, as in `butai up`."""


class PatrolSettings(_Section):
    """The patrol, which checks that each object is still in the store."""

    model_config = _env("BUTAI_PATROL_")

    minutes: float = 60.0
    """Minutes between two runs, and between two checks of a file that is in use."""

    cold_hours: float = 24.0
    """Hours between two checks of a file that has not been read for a day."""

    rate: float = 500.0
    """Most objects that are checked in a second; 0: no limit."""

    recheck_minutes: float = 10.0
    """Where the store answers 403 for an absent object: minutes between the two checks that make a file missing."""


class AlertSettings(_Section):
    """Who is notified of alerts."""

    model_config = _env("BUTAI_ALERT_")

    urls: SecretStr = SecretStr("")
    """Apprise URLs (`discord://…`, `slack://…`, `mailto://…`, `json://host/path`), separated by spaces or commas. When
    empty, alerts are kept and shown, and no notification is sent."""

    upload_failures: int = 5
    """Number of uploads failing for one reason of the service within fifteen minutes that raises an alert."""

    stale_hours: float = 2.0
    """Hours without a finished patrol run that raise an alert."""


class LogSettings(_Section):
    """What is written to stderr."""

    model_config = _env("BUTAI_LOG_")

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe event that is written."""

    format: Literal["json", "text"] = "json"
    """`json`: one object a line, for machines. `text`: for a person at a terminal."""


class LiveKitSettings(_Section):
    """Where LiveKit is, under LiveKit's own variable names."""

    model_config = _env("LIVEKIT_")

    url: str = ""
    """The URL of LiveKit: `ws://…` or `wss://…`."""

    api_key: str = ""
    """The API key."""

    api_secret: SecretStr = SecretStr("")
    """The secret that belongs to the API key."""


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


class LiveSettings(_Section):
    """Going live. Times are seconds."""

    model_config = _env()

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

    preset: Literal["720p30", "720p60", "1080p30", "1080p60"] = "720p30"
    """The encoding of a broadcast whose host chooses none."""

    source_grace: float = 60.0
    """Seconds for which the last picture and silence are sent after the host's media stopped."""

    on_source_lost: Literal["end", "stay"] = "end"
    """What happens after the grace: the broadcast ends, or stays up until it is stopped."""

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

    relay_folder: Path | None = None
    """The folder of the relays' sockets, open to this user alone; when empty, a folder in /tmp named after the user.
    The path must be short: a socket's path has at most 107 bytes."""

    @model_validator(mode="after")
    def _page(self) -> LiveSettings:
        if self.livekit_source == "web" and not self.livekit_template_url:
            raise ValueError("BUTAI_LIVEKIT_SOURCE=web shows a page: name it in BUTAI_LIVEKIT_TEMPLATE_URL")
        return self


class UpSettings(_Section):
    """`butai up`: everything on one machine."""

    model_config = _env()

    data_dir: Path = Path(".butai")
    """Where the embedded Postgres and store keep their files, and `butai sign-in` its codes."""


@dataclass(frozen=True)
class Settings:
    """All settings, read once from the environment; tests pass parts of their own."""

    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    identity: IdentitySettings = field(default_factory=lambda: IdentitySettings())  # noqa: PLW0108  # pyright: ignore[reportCallIssue]
    rates: RateSettings = field(default_factory=RateSettings)
    assets: AssetSettings = field(default_factory=AssetSettings)
    patrol: PatrolSettings = field(default_factory=PatrolSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    log: LogSettings = field(default_factory=LogSettings)
    livekit: LiveKitSettings = field(default_factory=LiveKitSettings)
    live: LiveSettings = field(default_factory=LiveSettings)
    up: UpSettings = field(default_factory=UpSettings)

    def secrets(self) -> list[str]:
        """Every secret value, which the log must leave out."""
        found: list[str] = []
        for part in fields(self):
            settings = getattr(self, part.name)
            for name in type(settings).model_fields:
                value = getattr(settings, name)
                if isinstance(value, SecretStr):
                    found += re.split(r"[,\s]+", value.get_secret_value())
        return [value for value in found if value]


def secret_names() -> frozenset[str]:
    """The names of all settings that are secrets, as they are in the environment."""
    names: set[str] = set()
    settings = Settings()
    for part in fields(settings):
        section = type(getattr(settings, part.name))
        for name, known in section.model_fields.items():
            if known.annotation is SecretStr:
                prefix = str(section.model_config.get("env_prefix", ""))
                names.add(str(known.validation_alias or f"{prefix}{name.upper()}"))
    return frozenset(names)
