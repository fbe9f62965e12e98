"""What schemathesis has to know beside our document: loaded by its own process (`schemathesis.toml`, `hooks`)."""

from __future__ import annotations

import json
import re
import zlib
from collections import defaultdict
from typing import Any

import schemathesis
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData
from schemathesis.transport.serialization import Binary

from butai import errors
from tests.fuzz.seeds import content_for
from tests.webhooks import sign

CODES = {
    error.code for error in vars(errors).values() if isinstance(error, type) and issubclass(error, errors.ButaiError)
} | {"method_not_allowed", "http_invalid", "request_timeout", "head_too_large"}
"""Every code that an error may carry: of the application, and of the server that reads requests for it."""

LIVEKIT_SECRET = "secretsecretsecretsecretsecretsecret"
"""As in `test_openapi`."""

KEY_RULES = frozenset({"key_invalid", "type_unsupported"})

# Valid by the schema and refused all the same, for a rule that JSON Schema cannot state.
BEYOND_SCHEMAS: dict[str, frozenset[str]] = {
    # A key is counted in bytes of its NFC form, and none of its parts is `.` or `..`. And what is inside a file.
    "POST /api/s3/upload": KEY_RULES | {"signature_mismatch", "glb_invalid", "checksum_mismatch"},
    # How large a file may be depends on its key.
    "POST /api/s3/presigned-url": KEY_RULES | {"file_too_large"},
    "GET /api/s3/read-object": KEY_RULES | {"range_not_satisfiable"},
    # Which URLs are ours depends on where we are.
    "GET /api/vrm-thumbnail": KEY_RULES | {"invalid_request"},
    # Which codes are good only who made them knows; after some that are not, none is looked at for a minute.
    "POST /api/session": frozenset({"sign_in_code_invalid", "rate_limited"}),
    # What an address needs beyond its letters; which parameters need each other; what is saved; what was asked before.
    "POST /api/live/destinations": frozenset({"invalid_destination"}),
    "PATCH /api/live/destinations/{destination_id}": frozenset({"invalid_destination"}),
    "POST /api/live/start": frozenset({"invalid_request", "no_destination", "idempotency_mismatch"}),
    "POST /api/live/stop": frozenset({"invalid_request"}),
    "POST /api/live/watch": frozenset({"invitation_invalid"}),
    "POST /api/live/broadcasts/{session_id}/outputs": frozenset({"invalid_request", "no_destination"}),
    "POST /api/live/outputs/{output_id}/retry": frozenset({"no_destination"}),
    # tus: metadata in base64, how much is left of an upload, and what is inside.
    "POST /api/assets/uploads": KEY_RULES
    | {"invalid_request", "MISSING_PARAMETERS", "file_too_large", "signature_mismatch", "glb_invalid"}
    | {"upload_checksum_wrong", "checksum_mismatch"},
    "PATCH /api/assets/uploads/{upload_id}": frozenset(
        {"invalid_request", "upload_checksum_wrong", "upload_expired", "signature_mismatch", "glb_invalid"}
    ),
    "DELETE /api/assets/uploads/{upload_id}": frozenset({"upload_expired"}),
    # A cursor is opaque: only the list that made it knows it.
    "GET /api/s3/resources": frozenset({"cursor_invalid"}),
    "GET /api/assets": frozenset({"cursor_invalid"}),
}


def code_of(response: Any) -> str:
    """The stable code in an error's body; empty where there is none."""
    try:
        body = response.json()
    except ValueError:
        return ""
    if not isinstance(body, dict):
        return ""
    error = body.get("error")
    return str(error.get("code", "")) if isinstance(error, dict) else str(body.get("code", ""))


@schemathesis.hook
def filter_failure(context: Any, failure: Failure, case: Any, response: Any) -> bool:
    if not isinstance(failure, RejectedPositiveData):
        return True
    if case.method == "HEAD":
        # Its answers have no body to say why; those of GET do.
        return response.status_code not in (400, 410, 416)
    return code_of(response) not in BEYOND_SCHEMAS.get(case.operation.label, frozenset())


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Puts real files into half of the forms whose key we know: random bytes are never an avatar."""
    if isinstance(body, dict) and isinstance(body.get("file"), Binary) and isinstance(body.get("fileName"), str):
        content = content_for(body["fileName"])
        if content is not None and zlib.crc32(body["file"].data) % 2 == 0:
            return {**body, "file": Binary(content)}
    return body


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Signs half of the webhooks as LiveKit does: nobody else gets one in. And sends the bytes of uploads from their
    beginning: where else one stands, no generator guesses."""
    offset = str((case.headers or {}).get("Upload-Offset", ""))
    if case.operation.label.startswith("PATCH /api/assets/uploads/") and re.fullmatch("[0-9]{1,15}", offset):
        case.headers["Upload-Offset"] = "0"
    if case.operation.label == "POST /api/live/webhook" and isinstance(case.body, dict):
        body = json.dumps(case.body).encode()
        if zlib.crc32(body) % 2 == 0:
            case.headers["Authorization"] = sign(body, "devkey", LIVEKIT_SECRET)


@schemathesis.check
def errors_have_codes(ctx: Any, response: Any, case: Any) -> None:
    """A 4xx says what it is: a code we have, and on `/api/vrm-thumbnail` a text."""
    if response.status_code < 400 or response.request.method == "HEAD":
        return
    if case.operation.path == "/api/vrm-thumbnail":
        assert response.json()["error"], "no error text"
    else:
        assert code_of(response) in CODES, f"unknown code {code_of(response)!r}"


@schemathesis.check
def answers_are_ours(ctx: Any, response: Any, case: Any) -> None:
    """Every answer has its request's id; none has a header that came in as a value."""
    assert len(response.headers.get("x-request-id", [])) == 1
    assert "x-injected" not in response.headers


@schemathesis.serializer("application/offset+octet-stream")
def offset_bytes(ctx: Any, value: Any) -> bytes:
    """What tus calls its bytes."""
    if isinstance(value, Binary):
        return value.data
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


OPERATORS = (
    *("/api/jobs", "/api/alerts", "/api/assets/patrol", "/api/assets/findings"),
    *("/api/audit", "/api/health", "/api/live/broadcasts/all", "/api/operations"),
)
"""For operators, which neither user is: what these do for one is in tests/integration (patrol, reconcile, alerts, jobs,
operations, suspension, take_downs)."""


@schemathesis.check
class EveryOperationSucceeds:
    """A fuzz that only meets refusals shows nothing."""

    def __init__(self) -> None:
        self.met: dict[str, set[int]] = defaultdict(set)

    def after_response(self, ctx: Any, response: Any, case: Any) -> None:
        self.met[case.operation.label].add(response.status_code)

    def after_run(self, ctx: Any) -> None:
        refused = [label for label in self.met if label.partition(" ")[2].startswith(OPERATORS)]
        for label in refused:
            assert self.met.pop(label) <= {400, 401, 403, 404, 405, 408, 413}, f"not refused: {label}"
        never = [label for label, met in self.met.items() if not any(200 <= status < 400 for status in met)]
        # A sign-in code is random and works once: tests/integration/test_sign_in.py signs in.
        assert self.met["POST /api/session"] <= {400, 403, 404, 405, 408, 413, 415, 421, 429}
        never.remove("POST /api/session")
        for label, met in sorted(self.met.items()):
            print(f"met {label}: {sorted(met)}")
        assert not never, f"never succeeded: {never}"
