"""How the API is served, how often a caller may ask, and which credentials are accepted."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from butai.config.environment import Section, section_config


def _site(url: str) -> SplitResult | None:
    """The parts of an http or https URL with a host and no user; None for all other texts."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    good = parts.scheme in ("http", "https") and parts.hostname and parts.username is None and port != 0
    return parts if good and not re.search(r"\s", url) else None


class HttpSettings(Section):
    """How the API is served."""

    model_config = section_config()

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
    loopback names while the API listens on loopback (also with `0.0.0.0` or `::`). Requests for all others are answered
    with 421, except `/healthz`, `/readyz` and LiveKit's webhook. Prometheus asks by the name or address in its
    configuration: name that one."""

    cors_origins: tuple[str, ...] = ()
    """Other origins that may call the API with cookies, as a JSON list (`["https://www.studio.example"]`); `*` is refused. A
    studio on the same origin needs none."""

    trusted_proxies: str = ""
    """Addresses and networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed, separated by commas.
    None by default: without a proxy in between, the caller writes these headers. `*`: all who connect are believed, and
    the first address of `X-Forwarded-For` is the caller's; right only where nothing but a proxy can connect, and the
    proxy replaces what the caller wrote there."""

    read_delivery: Literal["stream", "accel"] = "stream"
    """`stream`: this process carries the bodies. `accel`: it answers `X-Accel-Redirect` and nginx carries them
    (docs/nginx.conf)."""

    accel_prefix: str = "/_butai_store/"
    """The internal location of nginx that leads to the store, with `accel`."""

    access_log: bool = True
    """Whether each request is logged, in one line."""

    max_connections: Annotated[int, Field(ge=16)] = 4096
    """Most connections of one API process at once; fewer where it may open few files (`ulimit -n`), since each may need
    another one to the store. Idle ones are closed to make room. Beyond the limit the answer is 503
    `too_many_connections`, but to `/healthz`. A browser has six, and one more for each event stream: 4,096 are 500
    people at once."""

    max_connections_per_address: Annotated[int, Field(ge=1)] = 2048
    """Most of them, and most requests under way, of one address (of one network of 64 bits in IPv6). Behind a proxy that
    speaks HTTP/2 a browser asks for a page of 100 pictures at once: 20 people behind one address ask for 2,000. Behind a
    proxy it is the forwarded address, if BUTAI_TRUSTED_PROXIES names the proxy; otherwise all callers are one address."""

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


class RateSettings(Section):
    """How often one caller, or one address, may ask, as JSON objects: `{"burst": 120, "per_second": 2}`, or
    `{"burst": 1, "per_second": 0}` for no limit. Beyond it the answer is 429 `rate_limited` with `Retry-After`. Each API
    process counts by itself, in memory."""

    model_config = section_config("BUTAI_RATE_")

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

    invitation: Rate = Rate(burst=600, per_second=10)
    """Viewers' tokens that an address gets by invitation: a lecture hall of 500 that joins in one moment, and 600 a
    minute."""

    guess: Rate = Rate(burst=30, per_second=0.5)
    """API keys from an address that are none. A good key works in any case."""

    probe: Rate = Rate(burst=50, per_second=5)
    """`/metrics` for an address: five programs that ask each second."""


class IdentitySettings(Section):
    """Which credentials are accepted."""

    model_config = section_config()

    nextauth_secret: SecretStr = Field(SecretStr(""), validation_alias="NEXTAUTH_SECRET")
    """The studio's `NEXTAUTH_SECRET` (NextAuth 4). Several, separated by commas, while it is being changed. Used in
    place of `AUTH_SECRET` when that is empty, as in the studio's own package."""

    auth_secret: SecretStr = Field(SecretStr(""), validation_alias="AUTH_SECRET")
    """The studio's `AUTH_SECRET` (Auth.js 5). Several, separated by commas, while it is being changed. Used in place of
    `NEXTAUTH_SECRET` when that is empty."""

    auth_secret_1: SecretStr = Field(default=SecretStr(""), validation_alias="AUTH_SECRET_1")
    """The studio's next `AUTH_SECRET` while it is being changed, as Auth.js 5 numbers them; accepted beside it."""

    auth_secret_2: SecretStr = Field(default=SecretStr(""), validation_alias="AUTH_SECRET_2")
    """As `AUTH_SECRET_1`."""

    auth_secret_3: SecretStr = Field(default=SecretStr(""), validation_alias="AUTH_SECRET_3")
    """As `AUTH_SECRET_1`."""

    @property
    def authjs_secrets(self) -> dict[str, SecretStr]:
        """The set ones of Auth.js by the names of their variables, the newest first, as that package orders them
        (`@auth/core`, `lib/utils/env.ts`)."""
        return {
            name: value
            for name, value in (
                ("AUTH_SECRET_3", self.auth_secret_3),
                ("AUTH_SECRET_2", self.auth_secret_2),
                ("AUTH_SECRET_1", self.auth_secret_1),
                ("AUTH_SECRET", self.auth_secret),
            )
            if value.get_secret_value()
        }

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
