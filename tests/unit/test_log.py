"""Logs: what must never be in a line, whichever way it got there."""

from __future__ import annotations

import json
import logging

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from butai import log
from butai.config import LogSettings

CANARY = "canary-4f1d77aa"


@pytest.mark.parametrize("format", ["json", "text"])
def test_known_secrets_leave_every_kind_of_line(format: str, capfd: pytest.CaptureFixture[str]) -> None:
    log.configure(LogSettings(format=format), [CANARY])  # pyright: ignore[reportArgumentType]
    logger = structlog.get_logger()
    logger.info("event", field=f"x{CANARY}y", nested={"deep": [CANARY]})
    logger.info(f"in the name {CANARY}")  # noqa: G004 - what must not be done, and may be
    logging.getLogger("library").warning("says %s", CANARY)
    try:
        raise ValueError(f"boom {CANARY}")
    except ValueError:
        logger.exception("crashed")
        logging.getLogger("library").exception("crashed too")
    err = capfd.readouterr().err
    assert err.count("boom") >= 2
    assert CANARY not in err


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("GET https://s3/x?X-Amz-Signature=0123abcd&y=1", "0123abcd"),
        ("X-Amz-Credential=AKIA/2026/x", "AKIA"),
        ("Authorization: Bearer abc.def-ghi", "abc.def"),
        ("token eyJhbGciOiJkaXIi.x.y.z", "eyJhbGciOiJkaXIi"),
        ("butai_0123456789abcdef_fedcba9876543210", "fedcba9876543210"),
        ("postgresql://butai:hunter22@127.0.0.1/butai", "hunter22"),
        ("rtmps://a.rtmps.youtube.com:443/live2/abcd-efgh-ijkl", "abcd-efgh"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, secret: str) -> None:
    assert secret not in log.Redactor()(text)


@pytest.mark.parametrize("name", ["stream_key", "password", "api_secret", "Authorization", "cookie", "session_token"])
def test_fields_named_like_secrets_are_blank(name: str) -> None:
    assert log.drop_secret_fields(None, "", {"event": "x", name: "short"})[name] == log.REDACTED


@given(st.text(max_size=200))
def test_any_text_survives_redaction(text: str) -> None:
    assert isinstance(log.Redactor(["secret-value"])(text), str)


def test_a_json_line_is_one_object(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure(LogSettings())
    structlog.get_logger().info("output.failed", output_id="1", text="a\nb")
    (line,) = capfd.readouterr().err.splitlines()
    found = json.loads(line)
    assert (found["event"], found["output_id"], found["level"]) == ("output.failed", "1", "info")
