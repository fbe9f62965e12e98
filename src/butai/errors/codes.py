"""Every stable code of the service, with its meaning."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

import structlog

log = structlog.get_logger(__name__)


class Code(StrEnum):
    """A stable code with its meaning. One code means one thing wherever it is used: in an answer, on a row, in an
    event, in a report of the relay, in an alert or in an import's report."""

    meaning: str
    """One line for people; the `title` of an error with this code."""

    def __new__(cls, value: str, meaning: str) -> Self:
        """Creates a member with its meaning."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    @classmethod
    def received(cls, value: str) -> Code:
        """The code that another process sent as text. An unknown one is logged as an error and becomes `INTERNAL`: the
        sender is of another version, or misspells it."""
        try:
            return cls._value2member_map_[value]  # pyright: ignore[reportReturnType]
        except KeyError:
            log.error("code.unknown", received=value[:100])
            return cls.INTERNAL

    # Of requests. Each has a class in `butai.errors`, but those that HTTP itself defines.
    INTERNAL = "internal", "Something went wrong"
    AUTH_REQUIRED = "auth_required", "Sign in first"
    WEBHOOK_REFUSED = "webhook_refused", "LiveKit's signature does not prove this webhook"
    FORBIDDEN = "forbidden", "You may not change this"
    ORIGIN_DENIED = "origin_denied", "This site may not write with your session"
    QUOTA_EXCEEDED = "quota_exceeded", "This would exceed your quota"
    USER_SUSPENDED = "user_suspended", "This account is suspended"
    TAKEN_DOWN = "taken_down", "An operator has taken this file down"
    NOT_HOST = "not_host", "Only the room's host may do this"
    INVITATION_INVALID = "invitation_invalid", "The invitation is invalid, or has expired"
    SIGN_IN_CODE_INVALID = "sign_in_code_invalid", "The sign-in code is invalid, used or expired"
    HOST_NOT_ALLOWED = "host_not_allowed", "This service does not answer under this host name"
    RATE_LIMITED = "rate_limited", "Too many requests; try again later"
    TOO_MANY_CONNECTIONS = "too_many_connections", "Too many connections are open; try again in a moment"
    NOT_FOUND = "not_found", "Nothing is here"
    ASSET_NOT_FOUND = "asset_not_found", "No such asset"
    DESTINATION_NOT_FOUND = "destination_not_found", "No such destination"
    BROADCAST_NOT_FOUND = "broadcast_not_found", "No such broadcast"
    ROOM_NOT_FOUND = "room_not_found", "No such room"
    INVALID_REQUEST = "invalid_request", "The request cannot be read"
    HEADER_UNSUPPORTED = "header_unsupported", "A header of this request asks for what this path does not do"
    CONTENT_CODING_UNSUPPORTED = "content_coding_unsupported", "Bodies with a Content-Encoding are not accepted"
    TUS_VERSION_UNSUPPORTED = "tus_version_unsupported", "Resumable uploads need tus 1.0.0"
    KEY_INVALID = "key_invalid", "The key is not valid"
    CURSOR_INVALID = "cursor_invalid", "The cursor is not valid; start from the first page"
    SORT_INVALID = "sort_invalid", "Unknown sort order"
    FILTER_INVALID = "filter_invalid", "A filter has a value that is not valid"
    MISSING_PARAMETERS = "MISSING_PARAMETERS", "A parameter is missing"
    CONFLICT = "conflict", "The state does not allow this"
    ASSET_NOT_READY = "asset_not_ready", "The asset is not ready"
    ALREADY_LIVE = "already_live", "This room is already live"
    NOT_LIVE = "not_live", "This broadcast is over; start another one"
    ROOM_TAKEN = "room_taken", "This room has another owner"
    ROOM_CLOSED = "room_closed", "This room is closed"
    INVITATION_NOT_FOUND = "invitation_not_found", "There is no such invitation in this room"
    ENCODER_NOT_FOUND = "encoder_not_found", "There is no such key for encoders in this room"
    INGRESS_NOT_FOUND = "ingress_not_found", "There is no such ingress in this room"
    PROJECT_UNKNOWN = "project_unknown", "There is no such LiveKit project"
    NO_DESTINATION = "no_destination", "No destination is saved for this platform"
    INVALID_DESTINATION = "invalid_destination", "The ingest URL or the stream key cannot be right"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch", "This Idempotency-Key was used for another request"
    ASSET_MISSING = "asset_missing", "The store has lost this file"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable", "The range lies outside the file"
    UPLOAD_REFUSED = "upload_refused", "The file was refused"
    FILE_TOO_LARGE = "file_too_large", "The file is larger than its type allows"
    TYPE_UNSUPPORTED = "type_unsupported", "Files of this kind are not accepted"
    SIGNATURE_MISMATCH = "signature_mismatch", "The content does not match the file name"
    CHECKSUM_MISMATCH = "checksum_mismatch", "The SHA-256 differs from the one declared"
    SIZE_MISMATCH = "size_mismatch", "The size differs from the one declared"
    GLB_INVALID = "glb_invalid", "The GLB container is broken"
    INSPECTION_TOO_LARGE = "inspection_too_large", "The description of the file's content is too large to read"
    BODY_TOO_LARGE = "body_too_large", "The body is larger than allowed"
    UPLOAD_INTERRUPTED = "upload_interrupted", "The upload was interrupted; send it again"
    UPLOAD_CANCELLED = "upload_cancelled", "The upload was cancelled"
    UPLOAD_OFFSET_WRONG = "upload_offset_wrong", "The upload is at another offset: ask for it with HEAD"
    UPLOAD_TAKEN = "upload_taken", "A later request continues this upload"
    UPLOAD_EXPIRED = "upload_expired", "This upload is over; start it again"
    UPLOAD_CHECKSUM_WRONG = "upload_checksum_wrong", "The bytes do not match Upload-Checksum; send them again"
    CLIENT_DISCONNECTED = "client_disconnected", "The upload stopped before its end"
    UNAVAILABLE = "unavailable", "Try again in a moment"
    DATABASE_UNAVAILABLE = "database_unavailable", "The database does not answer"
    STORE_UNAVAILABLE = "store_unavailable", "The store does not answer"
    STORE_ACCESS_DENIED = "store_access_denied", "The store denies access to this service"
    STORE_TIMEOUT = "store_timeout", "The store took too long"
    LIVEKIT_NOT_CONFIGURED = "livekit_not_configured", "LiveKit is not configured"
    LIVEKIT_UNREACHABLE = "livekit_unreachable", "LiveKit does not answer"
    LIVEKIT_UNAUTHORIZED = "livekit_unauthorized", "LiveKit refuses our API key: see butai doctor"
    INGEST_NOT_CONFIGURED = (
        "ingest_not_configured",
        "Encoders cannot publish here: the operator must run butai ingest and set BUTAI_INGEST_URL",
    )
    INGRESS_UNAVAILABLE = (
        "ingress_unavailable",
        "This LiveKit takes no ingress: its operator must run LiveKit's Ingress service beside it, with Redis",
    )
    SECRET_KEY_INVALID = "secret_key_invalid", "There is no valid key to seal stream keys with"
    METHOD_NOT_ALLOWED = "method_not_allowed", "The path has no such method"
    REQUEST_TIMEOUT = "request_timeout", "The request did not come in time"
    HTTP_INVALID = "http_invalid", "This is not HTTP"
    HEAD_TOO_LARGE = "head_too_large", "The request's head is too long"

    # Of an output or a broadcast, from either engine. The texts that hosts read are in `butai.live.texts`.
    KEY_REJECTED = "key_rejected", "The platform refused the stream key"
    LOGIN_REQUIRED = "login_required", "The server asks for a user name and a password"
    REDIRECTED = "redirected", "The server points to another one"
    ALREADY_PUBLISHING = "already_publishing", "The platform already has a stream with this key"
    DESTINATION_UNREACHABLE = "destination_unreachable", "The platform cannot be reached"
    TLS_FAILED = "tls_failed", "The secure connection to the platform failed"
    DESTINATION_CLOSED = "destination_closed", "The platform closed the connection"
    DESTINATION_STALLED = "destination_stalled", "The platform accepts no data"
    RETRIES_EXHAUSTED = "retries_exhausted", "All retries are used up"
    PLATFORM_NOT_CONFIRMED = "platform_not_confirmed", "Data flows, but the platform does not confirm that it is live"
    EGRESS_UNAVAILABLE = "egress_unavailable", "The engine cannot start"
    EGRESS_LOST = "egress_lost", "The engine went away"
    EGRESS_CRASHED = "egress_crashed", "The engine stopped because of an error"
    EGRESS_START_TIMEOUT = "egress_start_timeout", "The platform took too long to start"
    NO_MEDIA = "no_media", "The host sends neither picture nor sound"
    MEDIA_ENCRYPTED = "media_encrypted", "The host's media are encrypted end to end"
    CODEC_UNSUPPORTED = "codec_unsupported", "The host publishes in a codec that cannot be decoded"
    NO_PICTURE = "no_picture", "The host publishes a picture, and none arrives"
    SOURCE_ENDED = "source_ended", "The host left, or the room was deleted"
    SOURCE_CLOSED = "source_closed", "The encoder's connection has ended"
    SOURCE_QUIET = "source_quiet", "The encoder is connected and sends nothing"
    NO_AUDIO = "no_audio", "The encoder sends no sound; silence is added"
    NO_CAPACITY = "no_capacity", "No machine has room for another broadcast"
    PRESET_LOWERED = "preset_lowered", "A busy machine sends a smaller picture than the host chose"
    ENCODER_KEY_REFUSED = "encoder_key_refused", "No encoder has this key"
    ENCODER_KEY_ENDED = "encoder_key_ended", "The key was replaced or revoked, or its room was closed"
    ENCODER_KEY_IN_USE = "encoder_key_in_use", "Another encoder publishes with this key"
    ENCODER_REPLACED = "encoder_replaced", "A newer connection publishes with the same key"
    STOP_UNCONFIRMED = "stop_unconfirmed", "The engine did not confirm the end"

    # Of what an encoder sends: it is passed on, and platforms may not take it.
    RARE_KEYFRAMES = "rare_keyframes", "Key frames are more than four seconds apart"
    PROFILE_UNUSUAL = "profile_unusual", "The picture has an H.264 profile that platforms may not take"
    CHROMA_UNUSUAL = "chroma_unusual", "The picture's colours are not sampled as 4:2:0"
    DEPTH_UNUSUAL = "depth_unusual", "The picture has more than eight bits for each colour"
    INTERLACED = "interlaced", "The picture is interlaced"
    SOUND_RATE_UNUSUAL = "sound_rate_unusual", "The sound has another sample rate than 44.1 or 48 kHz"
    SOUND_CHANNELS_UNUSUAL = "sound_channels_unusual", "The sound is neither mono nor stereo"
    SOUND_CODEC_UNUSUAL = "sound_codec_unusual", "The sound is not plain AAC-LC"
    CLOCKS_APART = "clocks_apart", "Picture and sound begin at different times; they are put together as they arrive"
    MEDIA_UNREADABLE = "media_unreadable", "Some pictures or sounds could not be read, and were left out"

    # Of a file's content, on the asset.
    INSPECTION_FAILED = "inspection_failed", "The content could not be read"
    INSPECTION_TIMEOUT = "inspection_timeout", "Reading the content took too long"
    DECODE_FAILED = "decode_failed", "The sound or picture could not be decoded"
    NO_PREVIEW = "no_preview", "There is no preview of a picture of this kind; the file itself is good"
    DECODE_TOO_LONG = "decode_too_long", "Decoding took too long"
    LICENCE_FORBIDS_REDISTRIBUTION = (
        "licence_forbids_redistribution",
        "A public file whose licence forbids passing it on",
    )

    # Of an import, one for each line of a listing, beside some codes of requests above.
    UNCHANGED = "unchanged", "The same as at the last import"
    OUTSIDE_PREFIX = "outside_prefix", "Does not begin with --strip-prefix"
    OWN_OBJECT = "own_object", "An object that Butai wrote itself"
    FOLDER = "folder", "A folder marker, not a file"
    OLD_VERSION = "old_version", "An old version"
    DELETE_MARKER = "delete_marker", "Deleted in the bucket"
    ARCHIVED = "archived", "In an archive: restore it in the bucket first"
    CODED = "coded", "The object has a Content-Encoding: its bytes are not the file's"
    EMPTY = "empty", "The object has no bytes"
    KEY_TAKEN = "key_taken", "Another file has this key: an upload, or another spelling of the same name"
    DUPLICATE = "duplicate", "Listed twice"
    TRASHED = "trashed", "In the trash: restore the asset to use it again"
    REMOVED = "removed", "Purged or replaced through Butai since the listing was made"
    BEING_REMOVED = "being_removed", "Purged or replaced through Butai; its object is about to be deleted"
    ALREADY_IN_USE = "already_in_use", "The object belongs to another asset"
    CHANGED = "changed", "The bytes differ from those of the last import"
    RECOVERED = "recovered", "Was missing and is back in the store"
    UNREADABLE = "unreadable", "The line of the listing cannot be read"
    ABSENT = "absent", "The store does not have it"
    DENIED_OR_ABSENT = (
        "denied_or_absent",
        "The store answers 403: the object is absent, or this service may not read it",
    )
    NOT_TRIED = "not_tried", "Left out because the store stopped answering"

    # Of patrols and alerts.
    INTERRUPTED = "interrupted", "The patrol's process ended before the run did"
    PATROL_UNRELIABLE = "patrol_unreliable", "The store's answers cannot be trusted; nothing was marked"
    PATROL_MASS_MISSING = "patrol_mass_missing", "Very many files seem to be missing; nothing was marked"
    PATROL_STALE = "patrol_stale", "No patrol run has finished for too long"
    ASSETS_MISSING = "assets_missing", "The store has lost files"
    UPLOAD_FAILURES = "upload_failures", "Many uploads failed for a reason of the service"
    JOBS_FAILED = "jobs_failed", "Background jobs failed for good"
    WORKER_DIED = "worker_died", "Workers died while they ran this job"

    # Of the service's components, at `GET /api/health`.
    NO_ANSWER = "no_answer", "No answer within two seconds"
    NO_WORKER = "no_worker", "No worker has reported lately"
    NO_WORKERS = "no_workers", "LiveKit has no free egress worker"
    NO_CONTROLLER = "no_controller", "No controller has reported lately"
