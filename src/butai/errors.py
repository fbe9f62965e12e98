"""Every error that a caller can meet, each with a stable code.

    ButaiError
    ├── Unauthenticated        401 auth_required
    │   └── WebhookRefused     401 webhook_refused, with its `reason`
    ├── Forbidden              403 forbidden
    │   ├── OriginDenied       403 origin_denied
    │   ├── QuotaExceeded      403 quota_exceeded
    │   └── NotHost            403 not_host
    ├── NotFound               404 not_found
    │   ├── AssetNotFound      404 asset_not_found
    │   ├── DestinationNotFound 404 destination_not_found
    │   ├── BroadcastNotFound  404 broadcast_not_found
    │   └── RoomNotFound       404 room_not_found
    ├── InvalidRequest         400 invalid_request
    │   ├── KeyInvalid         400 key_invalid
    │   ├── CursorInvalid      400 cursor_invalid
    │   ├── SortInvalid        400 sort_invalid
    │   ├── FilterInvalid      400 filter_invalid
    │   ├── TusVersionUnsupported 412 tus_version_unsupported
    │   └── MissingParameters  400 MISSING_PARAMETERS (the given paths spell it so)
    ├── Conflict               409 conflict
    │   ├── AssetNotReady      409 asset_not_ready
    │   ├── AlreadyLive        409 already_live, with the running broadcast's `session_id`
    │   ├── NotLive            409 not_live
    │   └── RoomTaken          409 room_taken
    ├── NoDestination          422 no_destination
    ├── InvalidDestination     422 invalid_destination
    ├── IdempotencyMismatch    422 idempotency_mismatch
    ├── AssetMissing           410 asset_missing
    ├── RangeNotSatisfiable    416 range_not_satisfiable
    ├── UploadRefused          what a file can be refused for
    │   ├── FileTooLarge       413 file_too_large
    │   ├── TypeUnsupported    415 type_unsupported
    │   ├── SignatureMismatch  422 signature_mismatch
    │   ├── ChecksumMismatch   422 checksum_mismatch
    │   ├── SizeMismatch       422 size_mismatch
    │   ├── GlbInvalid         422 glb_invalid
    │   └── InspectionTooLarge 422 inspection_too_large, never an answer: on the row of a file that is kept all the same
    ├── BodyTooLarge           413 body_too_large
    ├── UploadInterrupted      409 upload_interrupted
    │   ├── UploadCancelled    409 upload_cancelled
    │   ├── UploadOffsetWrong  409 upload_offset_wrong
    │   ├── UploadTaken        409 upload_taken
    │   ├── UploadExpired      410 upload_expired
    │   └── UploadChecksumWrong 460 upload_checksum_wrong (tus)
    ├── ClientDisconnected     400 client_disconnected
    └── Unavailable            503 unavailable, with Retry-After
        ├── DatabaseUnavailable  503 database_unavailable
        ├── StoreUnavailable   503 store_unavailable
        ├── StoreAccessDenied  503 store_access_denied
        ├── StoreTimeout       504 store_timeout
        ├── LiveKitNotConfigured 503 livekit_not_configured
        └── SecretKeyInvalid   503 secret_key_invalid

Clients match codes; texts may change. `butai.api` turns these into problem+json
(RFC 9457), or into the envelope of the given paths (`/api/s3/…`).
"""

from __future__ import annotations

from typing import ClassVar


class ButaiError(Exception):
    """An error with a stable code. `detail` is for people and never holds a secret."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong"
    retry_after: ClassVar[int | None] = None
    """Seconds for the `Retry-After` header, where trying again makes sense."""

    def __init__(self, detail: str | None = None, **more: str) -> None:
        self.detail = detail or self.title
        self.more = more
        """Further members of the problem (RFC 9457, 3.2)."""
        super().__init__(self.detail)


class Unauthenticated(ButaiError):
    code, status, title = "auth_required", 401, "Sign in first"


class WebhookRefused(Unauthenticated):
    code, title = "webhook_refused", "LiveKit's signature does not prove this webhook"


class Forbidden(ButaiError):
    code, status, title = "forbidden", 403, "This is not yours to change"


class OriginDenied(Forbidden):
    code, title = "origin_denied", "This site may not write with your session"


class QuotaExceeded(Forbidden):
    code, title = "quota_exceeded", "This would be more than you may keep here"


class NotHost(Forbidden):
    code, title = "not_host", "Only the room's host may do this"


class InvitationInvalid(Forbidden):
    code, title = "invitation_invalid", "This invitation is not good, or not any more"


class NotFound(ButaiError):
    code, status, title = "not_found", 404, "Nothing is here"


class AssetNotFound(NotFound):
    code, title = "asset_not_found", "No such asset"


class DestinationNotFound(NotFound):
    code, title = "destination_not_found", "No such destination"


class BroadcastNotFound(NotFound):
    code, title = "broadcast_not_found", "No such broadcast"


class RoomNotFound(NotFound):
    code, title = "room_not_found", "No such room"


class InvalidRequest(ButaiError):
    code, status, title = "invalid_request", 400, "The request cannot be read"


class TusVersionUnsupported(InvalidRequest):
    code, status, title = "tus_version_unsupported", 412, "Resumable uploads speak tus 1.0.0 here"


class KeyInvalid(InvalidRequest):
    code, title = "key_invalid", "The key is not one that can exist here"


class CursorInvalid(InvalidRequest):
    code, title = "cursor_invalid", "The cursor is not one of ours; start from the first page"


class SortInvalid(InvalidRequest):
    code, title = "sort_invalid", "Unknown sort order"


class FilterInvalid(InvalidRequest):
    code, title = "filter_invalid", "A filter has a value that cannot be"


class MissingParameters(InvalidRequest):
    code, title = "MISSING_PARAMETERS", "A parameter is missing"


class Conflict(ButaiError):
    code, status, title = "conflict", 409, "The state does not allow this"


class AssetNotReady(Conflict):
    code, title = "asset_not_ready", "The asset is not ready"


class AlreadyLive(Conflict):
    code, title = "already_live", "This room is already live"


class NotLive(Conflict):
    code, title = "not_live", "This is over; start again"


class RoomTaken(Conflict):
    code, title = "room_taken", "This room has another owner"


class IngressNotFound(NotFound):
    code, title = "ingress_not_found", "There is no such ingress in this room"


class ProjectUnknown(NotFound):
    code, title = "project_unknown", "There is no such LiveKit project here"


class NoDestination(ButaiError):
    code, status, title = "no_destination", 422, "No destination is saved for this platform"


class InvalidDestination(ButaiError):
    code, status, title = "invalid_destination", 422, "The ingest URL or the stream key cannot be right"


class IdempotencyMismatch(ButaiError):
    code, status, title = "idempotency_mismatch", 422, "This Idempotency-Key was used for another request"


class AssetMissing(ButaiError):
    code, status, title = "asset_missing", 410, "The store has lost this file"


class RangeNotSatisfiable(ButaiError):
    code, status, title = "range_not_satisfiable", 416, "The range lies outside the file"


class UploadRefused(ButaiError):
    """The file itself is why. Trying the same file again ends the same way."""

    code, status, title = "upload_refused", 422, "The file was refused"


class FileTooLarge(UploadRefused):
    code, status, title = "file_too_large", 413, "The file is larger than its type allows"


class TypeUnsupported(UploadRefused):
    code, status, title = "type_unsupported", 415, "Files of this kind are not kept here"


class SignatureMismatch(UploadRefused):
    code, title = "signature_mismatch", "The content is not what the name says"


class ChecksumMismatch(UploadRefused):
    code, title = "checksum_mismatch", "The SHA-256 differs from the one declared"


class SizeMismatch(UploadRefused):
    code, title = "size_mismatch", "The size differs from the one declared"


class GlbInvalid(UploadRefused):
    code, title = "glb_invalid", "The GLB container is broken"


class InspectionTooLarge(UploadRefused):
    """More would have to be read, or parsed, than a file's facts are worth. The file itself is kept."""

    code, title = "inspection_too_large", "What describes the file's content is too large to look into"


class BodyTooLarge(ButaiError):
    code, status, title = "body_too_large", 413, "The body is larger than it may be here"


class UploadInterrupted(ButaiError):
    """Its process died or stood still for so long that the attempt was given up; a retry takes the same row."""

    code, status, title = "upload_interrupted", 409, "The upload was interrupted; send it again"


class UploadCancelled(UploadInterrupted):
    code, title = "upload_cancelled", "The upload was cancelled"


class UploadOffsetWrong(UploadInterrupted):
    code, title = "upload_offset_wrong", "The upload stands at another offset: ask where"


class UploadTaken(UploadInterrupted):
    code, title = "upload_taken", "A later request goes on with this upload"


class UploadExpired(UploadInterrupted):
    code, status, title = "upload_expired", 410, "This upload is over; begin it anew"


class UploadChecksumWrong(UploadInterrupted):
    """460 is what tus has for it."""

    code, status, title = "upload_checksum_wrong", 460, "The bytes are not those of Upload-Checksum; send them again"


class ClientDisconnected(ButaiError):
    """The client went away in mid-body; the answer is written for the log, nobody reads it."""

    code, status, title = "client_disconnected", 400, "The upload stopped before its end"


class Unavailable(ButaiError):
    """Not the caller's fault; the same request may work later."""

    code, status, title, retry_after = "unavailable", 503, "Try again in a moment", 5


class DatabaseUnavailable(Unavailable):
    code, title = "database_unavailable", "The database does not answer"


class StoreUnavailable(Unavailable):
    code, title = "store_unavailable", "The store does not answer"


class StoreAccessDenied(Unavailable):
    code, title, retry_after = "store_access_denied", "The store refuses this service", 60


class StoreTimeout(Unavailable):
    code, status, title = "store_timeout", 504, "The store took too long"


class LiveKitNotConfigured(Unavailable):
    code, title, retry_after = "livekit_not_configured", "LiveKit is not set up here", 60


class LiveKitUnreachable(Unavailable):
    code, title, retry_after = "livekit_unreachable", "LiveKit does not answer", 10


class LiveKitUnauthorized(Unavailable):
    code, title, retry_after = "livekit_unauthorized", "LiveKit refuses our key: see butai doctor", 60


class IngressUnavailable(Unavailable):
    code, retry_after = "ingress_unavailable", 60
    title = "This LiveKit takes no ingress: its operator must run LiveKit's Ingress service beside it, with Redis"


class SecretKeyInvalid(Unavailable):
    code, title, retry_after = "secret_key_invalid", "No key to seal stream keys with", 60


class BrokenOff(Exception):
    """A body ended before its end, after its answer had begun: no code can be sent any more, so it has none.

    `butai.web.metrics` lets the server close the connection, which is how a client learns of it.
    """
