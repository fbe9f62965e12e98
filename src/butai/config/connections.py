"""Where Postgres, the object store and LiveKit are."""

from __future__ import annotations

from pydantic import SecretStr

from butai.config.environment import Section, section_config


class DatabaseSettings(Section):
    """Where Postgres (15 or newer) is."""

    model_config = section_config("BUTAI_DATABASE_")

    url: SecretStr = SecretStr("")
    """`postgresql://user:password@host:port/name`. When empty, `butai up` starts a Postgres of its own."""

    owner_url: SecretStr = SecretStr("")
    """The same database, as the role that owns its tables. `butai migrate` then connects by it, and gives the role in
    `BUTAI_DATABASE_URL` the privileges that the service needs, which are none to change tables or what the audit trail has.
    When empty, the service's role owns the tables. Set it for `butai migrate` alone; `butai up` does."""

    pool_size: int = 10
    """Most connections of one process for queries; as many again for transactions, and as many for single statements,
    of which the API has few. Ten keep two cores busy."""

    connect_timeout: float = 5.0
    """Seconds to wait for a free connection before the answer is 503."""


class StoreSettings(Section):
    """Where the object store is: any S3. Its access key needs the rights to put, get, head and delete, but not to list."""

    model_config = section_config("BUTAI_S3_")

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


class LiveKitSettings(Section):
    """Where LiveKit is, under LiveKit's own variable names."""

    model_config = section_config("LIVEKIT_")

    url: str = ""
    """The URL of LiveKit: `ws://…` or `wss://…`."""

    api_key: str = ""
    """The API key."""

    api_secret: SecretStr = SecretStr("")
    """The secret that belongs to the API key."""
