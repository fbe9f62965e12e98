"""What a webhook proves, and what is read out of it."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from butai.config import LiveKitSettings, LiveSettings
from butai.errors import InvalidRequest, WebhookRefused
from butai.live.projects import Project, Projects
from butai.live.webhooks.archive import blanked
from butai.live.webhooks.payload import TIMELINE, read
from butai.live.webhooks.signatures import LEEWAY, WINDOW, read_sender
from tests.examples import examples
from tests.webhooks import KEY, SECRET, encoded, event, joined, sign

RECORDINGS = Path(__file__).parents[1] / "recordings"
NOW = 1_800_000_000.0


def projects(key: str = KEY, secret: str = SECRET, file: Path | None = None) -> Projects:
    livekit = LiveKitSettings(url="ws://127.0.0.1:9", api_key=key, api_secret=SecretStr(secret))
    return Projects(livekit, LiveSettings(livekit_projects_file=file))


def verify(ours: Projects, authorization: bytes | None, body: bytes, now: float) -> Project:
    sender = read_sender(ours, authorization, now)
    sender.check_body(body)
    return sender.project


OURS = projects()
BODY = encoded(event(at=NOW))


def reason(authorization: str | None, body: bytes = BODY, now: float = NOW) -> str:
    with pytest.raises(WebhookRefused) as raised:
        verify(OURS, None if authorization is None else authorization.encode(), body, now)
    assert (raised.value.status, raised.value.code) == (401, "webhook_refused")
    return raised.value.more["reason"]


def recorded() -> Iterator[tuple[str, str, bytes, str]]:
    """Each recorded webhook: its recording, its event, its raw body and its `Authorization`."""
    for path in sorted(RECORDINGS.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            one = json.loads(line)
            if one["kind"] == "webhook":
                body = one["body"]
                yield path.stem, json.loads(body)["event"], body.encode(), one["headers"]["Authorization"]


# Signatures


def test_every_recorded_webhook_is_livekits_at_its_time_and_nobodys_later() -> None:
    theirs = projects("devkey", "secretsecretsecretsecretsecretsecret")
    seen: Counter[str] = Counter()
    for _, name, body, authorization in recorded():
        claims = jwt.decode(authorization, options={"verify_signature": False})
        for at in (claims["nbf"] - LEEWAY, claims["nbf"], claims["exp"] + LEEWAY):
            assert verify(theirs, authorization.encode(), body, at).name == "default"
        for at in (claims["nbf"] - LEEWAY - 1, claims["exp"] + LEEWAY + 1):
            with pytest.raises(WebhookRefused):
                verify(theirs, authorization.encode(), body, at)
        with pytest.raises(WebhookRefused):
            verify(theirs, authorization.encode(), body.replace(b", ", b",", 1), claims["nbf"])
        with pytest.raises(WebhookRefused):
            verify(projects("devkey", "other" * 8), authorization.encode(), body, claims["nbf"])
        seen[name] += 1
    assert seen.total() > 200 and set(seen) < set(TIMELINE)


@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
@examples(ci=50, deep=50, deadline=None)
def test_one_changed_byte_is_another_body(place: int, change: int) -> None:
    changed = bytearray(BODY)
    changed[place] ^= change
    assert reason(sign(BODY, at=NOW), bytes(changed)) == "body"


@given(st.text(max_size=200) | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
@examples(ci=150, deep=200, deadline=None)
def test_whatever_stands_in_authorization_it_is_refused_in_good_order(text: str) -> None:
    good = sign(BODY, at=NOW)
    head, payload, signature = good.split(".")
    for authorization in (
        text,
        f"{text}.{payload}.{signature}",
        f"{head}.{text}.{signature}",
        f"{head}.{payload}.{text}",
    ):
        raw = authorization.encode("utf-8", "surrogatepass")
        if authorization != good:
            with pytest.raises(WebhookRefused):
                verify(OURS, raw, BODY, NOW)


def test_a_token_is_good_for_as_long_as_it_says_and_ten_minutes_at_the_most() -> None:
    assert verify(OURS, sign(BODY, at=NOW).encode(), BODY, NOW + 300 + LEEWAY).name == "default"
    assert reason(sign(BODY, at=NOW), now=NOW + 300 + LEEWAY + 1) == "expired"
    a_year = int(NOW) + 365 * 86400
    assert verify(OURS, sign(BODY, at=NOW, exp=a_year).encode(), BODY, NOW + WINDOW).name == "default"
    assert reason(sign(BODY, at=NOW, exp=a_year), now=NOW + WINDOW + 1) == "expired"
    # As livekit-api's own senders sign: without `iat`.
    assert verify(OURS, sign(BODY, at=NOW, iat=None).encode(), BODY, NOW).name == "default"
    assert reason(sign(BODY, at=NOW, iat=None, exp=a_year), now=NOW + WINDOW + 1) == "expired"
    assert reason(sign(BODY, at=NOW, iat=None, nbf=None)) == "expired"


def test_a_name_of_a_key_in_two_projects_is_tried_in_both(tmp_path: Path) -> None:
    file = tmp_path / "projects.json"
    older = {"api_key": KEY, "api_secret": "older" * 8}
    file.write_text(
        json.dumps(
            {
                "tokyo": {"url": "ws://127.0.0.1:9", "keys": [{"api_key": KEY, "api_secret": "tokyo" * 8}, older]},
                "paris": {"url": "ws://127.0.0.1:9", "keys": [{"api_key": "paris", "api_secret": "paris" * 8}]},
            }
        )
    )
    all_of_them = projects(file=file)
    for key, secret, project in (
        (KEY, SECRET, "default"),
        (KEY, "tokyo" * 8, "tokyo"),
        (KEY, "older" * 8, "tokyo"),
        ("paris", "paris" * 8, "paris"),
    ):
        assert verify(all_of_them, sign(BODY, key, secret, at=NOW).encode(), BODY, NOW).name == project
    with pytest.raises(WebhookRefused) as raised:
        verify(all_of_them, sign(BODY, "paris", "tokyo" * 8, at=NOW).encode(), BODY, NOW)
    assert raised.value.more["reason"] == "signature"
    assert "tokyo" * 8 not in repr(raised.value)


# Bodies


def test_of_recorded_bodies_harmless_facts_alone_are_told() -> None:
    for recording, name, body, _ in recorded():
        heard = read(body)
        said = json.loads(body)
        assert (heard.event, heard.timeline_event, heard.id) == (name, TIMELINE[name], said["id"])
        assert heard.room_id == "r1", recording
        text = json.dumps(heard.detail)
        for secret in ("turnPassword", "rtmp", "{", said.get("room", {}).get("turnPassword", "rtmp")):
            assert secret not in text[1:], (recording, text)
        assert set(heard.detail) <= {
            "created_at", "identity", "kind", "engine", "reason", "track", "name", "source", "egress_id", "status",
            "error_code",
        }  # fmt: skip


def test_the_dead_worker_of_a_recording_shows_as_its_participants_leaving() -> None:
    left = [
        read(body)
        for name, event_name, body, _ in recorded()
        if (name, event_name) == ("worker-killed", "participant_left")
    ]
    (gone,) = [one for one in left if one.subject and one.subject.startswith("EG_")]
    assert gone.detail["engine"] is True and gone.detail["kind"] == "egress"


@pytest.mark.parametrize(
    ("name", "status", "state"),
    [
        ("ingress_started", "ENDPOINT_INACTIVE", "idle"),
        ("ingress_started", None, "idle"),
        ("ingress_started", "ENDPOINT_BUFFERING", "buffering"),
        ("ingress_started", "ENDPOINT_PUBLISHING", "publishing"),
        ("ingress_ended", "ENDPOINT_INACTIVE", "ended"),
        ("ingress_ended", "ENDPOINT_COMPLETE", "ended"),
        ("ingress_ended", "ENDPOINT_ERROR", "error"),
        ("ingress_started", 7, "idle"),
    ],
)
def test_an_ingress_is_what_its_event_says(name: str, status: Any, state: str) -> None:
    said = {"status": status, "updatedAt": "1795414797237968000"} if status else {"updatedAt": "1795414797237968000"}
    heard = read(encoded(event(name, ingressInfo={"ingressId": "IN_1", "roomName": "r", "state": said})))
    assert heard.ingress is not None and heard.subject == "IN_1" and heard.room_id == "r"
    assert (heard.ingress.state, heard.detail["status"]) == (state, state)
    assert heard.ingress.at == pytest.approx(1795414797.237968, abs=1e-6)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["event", "id", "createdAt", "room", "participant", "track", "egressInfo", "ingressInfo", "name",
                 "identity", "kind", "state", "status", "error", "updatedAt", "streamKey", "errorCode", "x"]
            ),
            inner,
            max_size=8,
        ),
        max_leaves=20,
    )
)  # fmt: skip
@examples(ci=150, deep=300, deadline=None)
def test_any_json_is_read_or_refused(value: Any) -> None:
    about = value if isinstance(value, dict) else {"x": value}
    for body in (json.dumps(value).encode(), json.dumps({"event": "x", "id": "y", "createdAt": "1"} | about).encode()):
        try:
            heard = read(body)
        except InvalidRequest:
            continue
        assert "\x00" not in json.dumps([heard.id, heard.event, heard.room_id, heard.subject]).replace(
            "\\u0000", "\x00"
        )
        json.dumps(heard.detail, allow_nan=False)


def test_a_long_identity_still_fits_into_a_notification() -> None:
    heard = read(encoded(joined("\x01" * 10_000, room="\x01" * 10_000)))
    about = (heard.event, heard.room_id, heard.subject, heard.detail["identity"])
    hint = json.dumps(
        {"project": "p" * 100, **dict(zip(("event", "room_id", "subject", "identity"), about, strict=True))}
    )
    assert len(hint) < 8000


# What operators read


def test_what_operators_read_holds_no_secret() -> None:
    said = {
        "room": {"turnPassword": "p" * 20, "name": "r", "metadata": "whatever"},
        "ingressInfo": {"streamKey": "sk-123456", "state": {"error": "refused sk-123456"}},
        "egressInfo": {
            "streamResults": [{"url": "rtmp://a.example/live2/{abc...xyz}", "error": "see {abc...xyz}"}],
            "participant": {"advanced": {"keyFrameInterval": 2, "videoBitrate": 1500}},
            "file": {"s3": {"accessKey": "AKIA", "secret": "s", "sessionToken": "t", "bucket": "b"}},
            "azure": {"accountName": "n", "accountKey": "k"},
        },
        "participant": {"attributes": {"a": "b"}, "identity": "host"},
        "id": "EV_1",
    }
    text = json.dumps(blanked(said))
    for secret in ("pppp", "whatever", "sk-123456", "abc", "xyz", "AKIA", '"s"', '"t"', '"k"'):
        assert secret not in text, secret
    for fact in ('"keyFrameInterval": 2', '"bucket": "b"', '"identity": "host"', '"refused [redacted]"', "a.example"):
        assert fact in text, fact
