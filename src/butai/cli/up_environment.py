"""The settings that `butai up` gives to the programs that it starts."""

from __future__ import annotations

import os
import secrets
import stat
import zlib
from pathlib import Path
from urllib.parse import urlsplit

from butai.config import SECRETS_FILE, Settings, secret_names, setting_names, settings_of_file
from butai.embedded.folder import choose_port, make_folder, read_state, write_state
from butai.embedded.listening import is_loopback, url_from_here
from butai.embedded.livekit import EmbeddedLiveKit
from butai.embedded.postgres import EmbeddedPostgres
from butai.embedded.process import StartError
from butai.embedded.seaweed import EmbeddedSeaweed

OWNERS_URL = "BUTAI_DATABASE_OWNER_URL"
"""For the migration alone: no other process may change what the audit trail has."""
_INGEST_PORT = 1935
"""RTMP's own."""
_LONGEST_FOLDER = 60
"""Bytes of a folder for sockets: the path of one has at most 107, of which `/BROADCAST-ID.sock` takes 42."""


def make_environment(
    settings: Settings,
    folder: Path,
    address: tuple[str, int],
    *,
    postgres: EmbeddedPostgres | None,
    store: EmbeddedSeaweed | None,
    livekit: EmbeddedLiveKit | None,
    encoders: bool = True,
) -> dict[str, str]:
    """The settings of the API, the worker, the controller and the migration, by their names in the environment, with the
    secrets among them.

    `folder`: the data folder, where a secret for sessions and the sockets of relays are kept. `address`: the host and port of
    the API. The servers are those that this run starts, prepared already. `encoders`: whether an ingest runs. Raises
    `StartError`."""
    host, port = address
    environment = _given()
    environment.pop(SECRETS_FILE, None)
    given = dict(environment)
    state_file = folder / "up.json"
    if postgres:
        environment["BUTAI_DATABASE_URL"] = postgres.url
        environment[OWNERS_URL] = postgres.owner_url
    if store:
        s3 = store.store
        environment |= {
            "BUTAI_S3_ENDPOINT": s3.endpoint,
            "BUTAI_S3_PUBLIC_ENDPOINT": settings.store.public_endpoint,
            "BUTAI_S3_REGION": s3.region,
            "BUTAI_S3_BUCKET": s3.bucket,
            "BUTAI_S3_ACCESS_KEY_ID": s3.credentials.access_key_id,
            "BUTAI_S3_SECRET_ACCESS_KEY": s3.credentials.secret_access_key,
            "BUTAI_S3_SESSION_TOKEN": "",
            "BUTAI_S3_PATH_STYLE": "true",
        }
    if not settings.identity.nextauth_secret.get_secret_value():
        environment["NEXTAUTH_SECRET"] = _secret_for_sessions(state_file)
    if livekit:
        project = livekit.livekit
        environment |= {
            "LIVEKIT_URL": project.url,
            "LIVEKIT_API_KEY": project.api_key,
            "LIVEKIT_API_SECRET": project.api_secret,
        }
    live = settings.live
    if not live.secret_key.get_secret_value() and live.secret_key_file is None:
        environment["BUTAI_SECRET_KEY_FILE"] = str(folder / "secret.key")
    if live.relay_folder is None:
        environment["BUTAI_RELAY_FOLDER"] = str(_relay_folder(folder))
    if not given.get("BUTAI_ALLOW_PRIVATE_INGEST"):
        # Else every user of the network could look for servers behind this machine, by testing destinations.
        environment["BUTAI_ALLOW_PRIVATE_INGEST"] = "true" if is_loopback(host) else "false"
    if not given.get("BUTAI_CAPACITY_RESERVE"):
        # API, worker, Postgres, store and LiveKit run on the same cores as the relays.
        environment["BUTAI_CAPACITY_RESERVE"] = "0.5"
    environment |= _ingest(settings, state_file, host, given) if encoders else {}
    environment["BUTAI_DATA_DIR"] = str(folder)
    for quota in ("BUTAI_QUOTA_BYTES", "BUTAI_QUOTA_FILES"):
        # The files are on the user's own disk.
        environment[quota] = given.get(quota) or "0"
    development = signs_in(settings, host)
    environment["BUTAI_DEV_SIGN_IN"] = "true" if development else "false"
    if development and not given.get("BUTAI_OPERATORS"):
        # The link of `butai sign-in operator` then shows the operations.
        environment["BUTAI_OPERATORS"] = '["operator"]'
    environment["BUTAI_HOST"] = host
    environment["BUTAI_PORT"] = str(port)
    return environment


def signs_in(settings: Settings, host: str) -> bool:
    """Whether development sign-in is on: as the environment says, else when only this machine can reach the API."""
    if _given().get("BUTAI_DEV_SIGN_IN"):
        return settings.identity.dev_sign_in
    return is_loopback(host)


def split_secrets(everything: dict[str, str]) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Splits settings by their names in the environment: those that are no secrets, the services' secrets, the migration's."""
    hidden = secret_names()
    for_migration = {name: value for name, value in everything.items() if name in hidden}
    environment = {name: value for name, value in everything.items() if name not in for_migration}
    secrets = {name: value for name, value in for_migration.items() if name != OWNERS_URL}
    return environment, secrets, for_migration


def _given() -> dict[str, str]:
    """The environment and the settings of the file that it names, as `butai.config` merges them. The names of settings,
    which are known in lower case too, are in upper case."""
    known = setting_names()
    given = {name.upper() if name.upper() in known else name: value for name, value in os.environ.items()}
    return given | {name.upper(): value for name, value in settings_of_file().items() if value}


def _secret_for_sessions(state_file: Path) -> str:
    """The secret of this data folder, made at the first start."""
    state = read_state(state_file)
    if "nextauth_secret" not in state:
        state["nextauth_secret"] = secrets.token_urlsafe(32)
        write_state(state_file, state)
    return str(state["nextauth_secret"])


def _ingest(settings: Settings, state_file: Path, host: str, given: dict[str, str]) -> dict[str, str]:
    """Where the ingest listens, and the URL that hosts are told. Its port, once chosen, is taken again whenever it is free, since
    encoders store it."""
    at = given.get("BUTAI_INGEST_HOST") or host
    port = settings.ingest.port
    # 0: any free one, and the others are to know which.
    if not port or not given.get("BUTAI_INGEST_PORT"):
        state = read_state(state_file)
        wanted = int(state.get("ingest_port", _INGEST_PORT))
        try:
            port = choose_port(among=range(wanted, wanted + 1))
        except StartError:
            port = choose_port()
        if "ingest_port" not in state:
            write_state(state_file, state | {"ingest_port": str(port)})
    found = {"BUTAI_INGEST_HOST": at, "BUTAI_INGEST_PORT": str(port)}
    if not settings.ingest.url:
        scheme = "rtmp" if settings.ingest.certificate is None else "rtmps"
        public = urlsplit(settings.http.public_url).hostname
        url = f"http://[{public}]:{port}" if public and ":" in public else f"http://{public}:{port}"
        found["BUTAI_INGEST_URL"] = (url if public else url_from_here(at, port)).replace("http", scheme, 1)
    return found


def _relay_folder(folder: Path) -> Path:
    """The folder of the relays' sockets: in the data folder, or in /tmp where that path is too long. Raises
    `StartError`."""
    path = folder / "relays"
    if len(os.fsencode(path)) <= _LONGEST_FOLDER:
        return make_folder(path, needed_bytes=0)
    path = Path("/tmp") / f"butai-{os.geteuid()}-{zlib.crc32(os.fsencode(folder)):08x}"  # noqa: S108 - its owner is checked
    path = make_folder(path, needed_bytes=0)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise StartError(f"{path} is open to other users: remove it, or name another folder in BUTAI_RELAY_FOLDER")
    return path
