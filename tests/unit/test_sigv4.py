"""Signatures, against AWS's own example."""

from __future__ import annotations

from datetime import UTC, datetime

from butai.assets.storage.sigv4 import Credentials, presign

# AWS, "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)", the example of that page.
EXAMPLE = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")


def test_the_documented_example() -> None:
    url = presign(
        "GET",
        "https://examplebucket.s3.amazonaws.com/test.txt",
        EXAMPLE,
        "us-east-1",
        expires=86400,
        now=datetime(2013, 5, 24, tzinfo=UTC),
    )
    assert url.endswith("X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")


def test_the_secret_is_in_no_repr() -> None:
    assert "EXAMPLEKEY" not in repr(EXAMPLE)
