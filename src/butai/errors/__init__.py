"""Every error that a caller can meet, and the stable codes (in `codes`; imported from here).

Clients match codes; texts may change. `butai.web.problems` turns the errors into problem+json (RFC 9457), or into the
envelope of the given paths (`/api/s3/…`). `docs/errors.md` lists both, written from here by `make docs`.
"""

from __future__ import annotations

from typing import ClassVar

from butai.errors.codes import Code as Code


class ButaiError(Exception):
    """An error with a stable code. `detail` is for people and never holds a secret."""

    code: ClassVar[Code] = Code.INTERNAL
    status: ClassVar[int] = 500
    title: ClassVar[str] = Code.INTERNAL.meaning
    retry_after: int | None = None
    """Seconds for the `Retry-After` header, where a retry makes sense."""

    def __init_subclass__(cls) -> None:
        cls.title = cls.code.meaning

    def __init__(self, detail: str | None = None, **more: str) -> None:
        self.detail = detail or self.title
        self.more = more
        """Further members of the problem (RFC 9457, 3.2)."""
        super().__init__(self.detail)


class Unauthenticated(ButaiError):
    code, status = Code.AUTH_REQUIRED, 401


class WebhookRefused(Unauthenticated):
    code = Code.WEBHOOK_REFUSED


class Forbidden(ButaiError):
    code, status = Code.FORBIDDEN, 403


class OriginDenied(Forbidden):
    code = Code.ORIGIN_DENIED


class QuotaExceeded(Forbidden):
    code = Code.QUOTA_EXCEEDED


class UserSuspended(Forbidden):
    code = Code.USER_SUSPENDED


class TakenDown(Forbidden):
    code = Code.TAKEN_DOWN


class NotHost(Forbidden):
    code = Code.NOT_HOST


class InvitationInvalid(Forbidden):
    code = Code.INVITATION_INVALID


class SignInCodeInvalid(Forbidden):
    code = Code.SIGN_IN_CODE_INVALID


class HostNotAllowed(ButaiError):
    """The `Host` of a request is none of those that are set."""

    code, status = Code.HOST_NOT_ALLOWED, 421

    def __init__(self) -> None:
        super().__init__(
            "The Host of this request is not allowed: set BUTAI_PUBLIC_URL, or name it in BUTAI_ALLOWED_HOSTS"
        )


class RateLimited(ButaiError):
    """More than is allowed in a time; `retry_after` seconds say when to try again."""

    code, status, retry_after = Code.RATE_LIMITED, 429, 60

    def __init__(self, detail: str | None = None, retry_after: int = 60) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class NotFound(ButaiError):
    code, status = Code.NOT_FOUND, 404


class AssetNotFound(NotFound):
    code = Code.ASSET_NOT_FOUND


class DestinationNotFound(NotFound):
    code = Code.DESTINATION_NOT_FOUND


class BroadcastNotFound(NotFound):
    code = Code.BROADCAST_NOT_FOUND


class RoomNotFound(NotFound):
    code = Code.ROOM_NOT_FOUND


class InvalidRequest(ButaiError):
    code, status = Code.INVALID_REQUEST, 400


class HeaderUnsupported(InvalidRequest):
    """A header that changes what the request means, and that this path does not follow."""

    code = Code.HEADER_UNSUPPORTED


class ContentCodingUnsupported(ButaiError):
    code, status = Code.CONTENT_CODING_UNSUPPORTED, 415

    def __init__(self) -> None:
        super().__init__("The body has a Content-Encoding: send it as it is")


class TusVersionUnsupported(InvalidRequest):
    code, status = Code.TUS_VERSION_UNSUPPORTED, 412


class KeyInvalid(InvalidRequest):
    code = Code.KEY_INVALID


class CursorInvalid(InvalidRequest):
    code = Code.CURSOR_INVALID


class SortInvalid(InvalidRequest):
    code = Code.SORT_INVALID


class FilterInvalid(InvalidRequest):
    code = Code.FILTER_INVALID


class MissingParameters(InvalidRequest):
    code = Code.MISSING_PARAMETERS


class Conflict(ButaiError):
    code, status = Code.CONFLICT, 409


class AssetNotReady(Conflict):
    code = Code.ASSET_NOT_READY


class AlreadyLive(Conflict):
    code = Code.ALREADY_LIVE


class NotLive(Conflict):
    code = Code.NOT_LIVE


class RoomTaken(Conflict):
    code = Code.ROOM_TAKEN


class RoomClosed(Conflict):
    code = Code.ROOM_CLOSED


class InvitationNotFound(NotFound):
    code = Code.INVITATION_NOT_FOUND


class EncoderNotFound(NotFound):
    code = Code.ENCODER_NOT_FOUND


class IngressNotFound(NotFound):
    code = Code.INGRESS_NOT_FOUND


class ProjectUnknown(NotFound):
    code = Code.PROJECT_UNKNOWN


class NoDestination(ButaiError):
    code, status = Code.NO_DESTINATION, 422


class InvalidDestination(ButaiError):
    code, status = Code.INVALID_DESTINATION, 422


class IdempotencyMismatch(ButaiError):
    code, status = Code.IDEMPOTENCY_MISMATCH, 422


class AssetMissing(ButaiError):
    code, status = Code.ASSET_MISSING, 410


class RangeNotSatisfiable(ButaiError):
    code, status = Code.RANGE_NOT_SATISFIABLE, 416


class UploadRefused(ButaiError):
    """The file itself is the cause. Uploading the same file again ends the same way."""

    code, status = Code.UPLOAD_REFUSED, 422


class FileTooLarge(UploadRefused):
    code, status = Code.FILE_TOO_LARGE, 413


class TypeUnsupported(UploadRefused):
    code, status = Code.TYPE_UNSUPPORTED, 415


class SignatureMismatch(UploadRefused):
    code = Code.SIGNATURE_MISMATCH


class ChecksumMismatch(UploadRefused):
    code = Code.CHECKSUM_MISMATCH


class SizeMismatch(UploadRefused):
    code = Code.SIZE_MISMATCH


class GlbInvalid(UploadRefused):
    code = Code.GLB_INVALID


class InspectionTooLarge(UploadRefused):
    """Reading a file's facts would take more than the limit of bytes or parsing. The file itself is kept."""

    code = Code.INSPECTION_TOO_LARGE


class BodyTooLarge(ButaiError):
    code, status = Code.BODY_TOO_LARGE, 413


class UploadInterrupted(ButaiError):
    """The upload's process died, or made no progress for so long that the attempt was given up; a retry uses the same
    row."""

    code, status = Code.UPLOAD_INTERRUPTED, 409


class UploadCancelled(UploadInterrupted):
    code = Code.UPLOAD_CANCELLED


class UploadOffsetWrong(UploadInterrupted):
    code = Code.UPLOAD_OFFSET_WRONG


class UploadTaken(UploadInterrupted):
    code = Code.UPLOAD_TAKEN


class UploadExpired(UploadInterrupted):
    code, status = Code.UPLOAD_EXPIRED, 410


class UploadChecksumWrong(UploadInterrupted):
    """The checksum of a tus request does not match; tus defines status 460 for it."""

    code, status = Code.UPLOAD_CHECKSUM_WRONG, 460


class ClientDisconnected(ButaiError):
    """The client disconnected in the middle of the body. The answer exists for the log: no client receives it."""

    code, status = Code.CLIENT_DISCONNECTED, 400


class BodyTooSlow(ClientDisconnected):
    """The body did not come in time, though the client is still connected."""

    code, status = Code.REQUEST_TIMEOUT, 408


class Unavailable(ButaiError):
    """The service or something behind it failed; the same request may succeed later."""

    code, status, retry_after = Code.UNAVAILABLE, 503, 5


class TooManyConnections(Unavailable):
    """All connections that the process, or the caller's address, may have are in use."""

    code = Code.TOO_MANY_CONNECTIONS


class DatabaseUnavailable(Unavailable):
    code = Code.DATABASE_UNAVAILABLE


class StoreUnavailable(Unavailable):
    code = Code.STORE_UNAVAILABLE


class StoreAccessDenied(Unavailable):
    code, retry_after = Code.STORE_ACCESS_DENIED, 60


class StoreTimeout(Unavailable):
    code, status = Code.STORE_TIMEOUT, 504


class NoCapacity(Unavailable):
    """The only controller is full; another broadcast has to end first."""

    code, retry_after = Code.NO_CAPACITY, 30


class LiveKitNotConfigured(Unavailable):
    code, retry_after = Code.LIVEKIT_NOT_CONFIGURED, 60


class LiveKitUnreachable(Unavailable):
    code, retry_after = Code.LIVEKIT_UNREACHABLE, 10


class LiveKitUnauthorized(Unavailable):
    code, retry_after = Code.LIVEKIT_UNAUTHORIZED, 60


class IngestNotConfigured(Unavailable):
    code, retry_after = Code.INGEST_NOT_CONFIGURED, 60


class IngressUnavailable(Unavailable):
    code, retry_after = Code.INGRESS_UNAVAILABLE, 60


class SecretKeyInvalid(Unavailable):
    code, retry_after = Code.SECRET_KEY_INVALID, 60


class BrokenOff(Exception):
    """A body stopped early after its answer had begun: the status is sent already, so there is no code.

    `butai.web.request_log` lets the server close the connection, by which the client learns of it.
    """
