"""Checks whether the object store has the features that the service uses, and where it differs from others. Part of
`butai doctor`.

All checks use objects of their own, under random names below `butai/doctor/`, which are removed again.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import secrets

import aiohttp

from butai.assets.imports.bucket_listing import may_list
from butai.assets.imports.listings import ListingError
from butai.assets.storage.client import Store
from butai.config import Settings
from butai.doctor.asking import Answer, Asking
from butai.doctor.findings import CHECK_SECONDS, Findings

BODY = b"butai doctor was here"

SKEW_WARNED = 60.0
SKEW_REFUSED = 900.0
"""Seconds. With a larger difference (15 minutes) S3 refuses every signature (AWS, RequestTimeTooSkewed)."""

_CODES = {
    "InvalidAccessKeyId": "the store does not know BUTAI_S3_ACCESS_KEY_ID: check it",
    "SignatureDoesNotMatch": "check BUTAI_S3_SECRET_ACCESS_KEY; a proxy that changes the Host header or the path does this too",
    "NoSuchBucket": "make the bucket, or correct BUTAI_S3_BUCKET",
    "ExpiredToken": "the temporary credentials have run out: renew them, BUTAI_S3_SESSION_TOKEN too",
    "InvalidToken": "check BUTAI_S3_SESSION_TOKEN; empty it for credentials that have none",
    "AuthorizationHeaderMalformed": "correct BUTAI_S3_REGION",
    "AuthorizationQueryParametersError": "correct BUTAI_S3_REGION",
    "PermanentRedirect": "the bucket is in another region: correct BUTAI_S3_REGION and BUTAI_S3_ENDPOINT",
    "TemporaryRedirect": "the bucket is in another region: correct BUTAI_S3_REGION and BUTAI_S3_ENDPOINT",
    "RequestTimeTooSkewed": "set this machine's clock: let chrony or systemd-timesyncd run",
    "InvalidBucketName": "correct BUTAI_S3_BUCKET",
}


async def examine_store(settings: Settings, findings: Findings) -> None:
    """Adds findings; raises no error of the store."""
    store = configured(settings, findings)
    if store is None:
        return
    async with aiohttp.ClientSession() as http:
        await _Examination(Asking(http, store), store, findings).run()


def configured(settings: Settings, findings: Findings) -> Store | None:
    """The store to check, or None when the settings name none."""
    of = settings.store
    if not of.endpoint:
        findings.broken(
            "configured",
            "BUTAI_S3_ENDPOINT is not set",
            "export BUTAI_S3_ENDPOINT=https://s3.eu-west-1.amazonaws.com (butai up brings its own store)",
        )
        return None
    if not re.match(r"https?://[^/]", of.endpoint):
        findings.broken("configured", f"BUTAI_S3_ENDPOINT is {of.endpoint}", "begin it with https:// (or http://)")
        return None
    missing = [
        name
        for name, value in (
            ("BUTAI_S3_BUCKET", of.bucket),
            ("BUTAI_S3_ACCESS_KEY_ID", of.access_key_id.get_secret_value()),
            ("BUTAI_S3_SECRET_ACCESS_KEY", of.secret_access_key.get_secret_value()),
        )
        if not value
    ]
    if missing:
        findings.broken("configured", f"{', '.join(missing)} not set", f"export {'=… '.join(missing)}=…")
        return None
    return Store(of)


class _Examination:
    """One store's checks, in an order in which each may rely on those before it."""

    def __init__(self, asking: Asking, store: Store, findings: Findings) -> None:
        self._ask = asking.ask
        self._asking = asking
        self._store = store
        self._findings = findings
        self._key = f"{store.prefix}butai/doctor/{secrets.token_hex(8)}"
        self._made: list[str] = []
        self._silent = False

    async def run(self) -> None:
        """Runs all checks; removes the objects in any case."""
        if not await self._reached():
            return
        try:
            if await self._put():
                await self._get()
                await self._absent()
                await self._range()
                await self._conditional()
                await self._checksums()
                await self._copy()
                await self._signatures()
            elif self._silent:
                # A store that hangs once hangs again: the other checks would only take time.
                return
            await self._multipart()
            await self._listing()
        finally:
            await self._delete()

    async def _reached(self) -> bool:
        of = self._store.settings
        first = await self._ask("GET", f"{self._key}-absent")
        if not first.status:
            self._findings.broken(
                "reachable",
                f"{of.endpoint} does not answer: {first.trouble}",
                "check BUTAI_S3_ENDPOINT, that the store runs there, and the firewall in between",
            )
            return False
        server = first.headers.get("server", "")
        self._findings.ok("reachable", f"{of.endpoint}, bucket {of.bucket}" + (f" ({server})" if server else ""))
        self._clock(first)
        if first.code in _CODES:
            self._findings.broken("accepted", f"the store answers {first.said}", _CODES[first.code])
            return False
        if first.status >= 500 or 300 <= first.status < 400 or first.status == 400:
            self._findings.broken(
                "accepted",
                f"the store answers {first.said}",
                "look at the store's log"
                if first.status >= 500
                else "check BUTAI_S3_ENDPOINT, BUTAI_S3_REGION and BUTAI_S3_PATH_STYLE",
            )
            return False
        return True

    def _clock(self, answer: Answer) -> None:
        if answer.skew is None:
            self._findings.warn("clock", "the store's answers have no Date", "nothing to do")
            return
        off = abs(answer.skew)
        said = f"the store's clock is {off:.0f} s {'ahead of' if answer.skew > 0 else 'behind'} this machine's"
        advice = "let chrony or systemd-timesyncd run on this machine (and on the store's)"
        if off > SKEW_REFUSED:
            self._findings.broken("clock", f"{said}: that is why signatures are refused", advice)
        elif off > SKEW_WARNED:
            self._findings.warn("clock", f"{said}; beyond {SKEW_REFUSED:.0f} s it refuses every request", advice)
        else:
            self._findings.ok("clock", f"{max(0.0, off - 0.5):.0f} s from this machine's")

    def _judge(self, check: str, answer: Answer, good: bool, well: str, bad: str, right: str = "") -> bool:  # noqa: FBT001 - the outcome of the check
        """Adds the finding of one check. `right` is the permission that the check needs, named when it is refused."""
        if good:
            self._findings.ok(check, well)
            return True
        if answer.code in _CODES:
            advice = _CODES[answer.code]
        elif answer.status in (401, 403) and right:
            bucket = self._store.settings.bucket
            advice = f"check BUTAI_S3_BUCKET; give this identity {right} on {bucket}/{self._store.prefix}*"
        else:
            advice = "look at the store's log; a store that cannot do this cannot be used"
        self._findings.broken(check, f"{bad}: {answer.said}", advice)
        return False

    async def _put(self) -> bool:
        self._made.append(self._key)
        answer = await self._ask("PUT", self._key, headers={"Content-Type": "text/plain"}, body=BODY)
        self._silent = not answer.status
        return self._judge("put", answer, answer.status == 200, "may write", "cannot write", "s3:PutObject")

    async def _get(self) -> None:
        got = await self._ask("GET", self._key)
        good = got.status == 200 and got.body == BODY
        self._judge("get", got, good, "may read; the bytes are the same", "cannot read it back", "s3:GetObject")
        head = await self._ask("HEAD", self._key)
        good = head.status == 200 and head.headers.get("content-length") == str(len(BODY)) and "etag" in head.headers
        self._judge("head", head, good, "returns size and ETag", "HEAD returns no size and ETag", "s3:GetObject")

    async def _absent(self) -> None:
        answer = await self._ask("HEAD", f"{self._key}-absent")
        if answer.status == 404:
            self._findings.ok("absent key", "404: an absent file is distinguished from a refused one")
        elif answer.status == 403:
            self._findings.ok(
                "absent key",
                "403: like AWS, this store answers 403 for an absent file to an identity without s3:ListBucket. "
                "A 403 on one file is then not taken as proof of its loss at once; granting s3:ListBucket would make it a 404",
            )
        else:
            self._findings.broken(
                "absent key",
                f"{answer.said} for a key that was never written",
                "404 or 403 is expected: look whether a proxy or a web page answers in the store's place",
            )

    async def _range(self) -> None:
        answer = await self._ask("GET", self._key, headers={"Range": "bytes=6-11"})
        good = answer.status == 206 and answer.body == BODY[6:12]
        self._judge("ranges", answer, good, "returns part of a file", "does not return part of a file")

    async def _conditional(self) -> None:
        answer = await self._ask("PUT", self._key, headers={"If-None-Match": "*"}, body=BODY)
        if answer.status in (409, 412):
            self._findings.ok("conditional put", "If-None-Match: * is honoured")
        else:
            self._findings.warn(
                "conditional put",
                f"If-None-Match: * on a key that exists is answered with {answer.said}, not with 412",
                "nothing to do: each version of a file is written under a new random key",
            )

    async def _checksums(self) -> None:
        key = f"{self._key}-sum"
        self._made.append(key)

        async def put(of: bytes) -> Answer:
            digest = base64.b64encode(hashlib.sha256(of).digest()).decode()
            return await self._ask("PUT", key, headers={"x-amz-checksum-sha256": digest}, body=BODY)

        right, wrong = await put(BODY), await put(b"something else")
        if right.status != 200:
            self._findings.warn(
                "checksums",
                f"x-amz-checksum-sha256 is refused: {right.said}",
                "nothing to do: SHA-256 is made on the way in, and kept in the database",
            )
        elif wrong.status == 200:
            self._findings.warn(
                "checksums",
                "a wrong x-amz-checksum-sha256 is accepted: this store does not verify what it receives",
                "connect to it with TLS, or use a store that verifies",
            )
        else:
            self._findings.ok("checksums", "x-amz-checksum-sha256 is verified")

    async def _copy(self) -> None:
        key = f"{self._key}-copy"
        self._made.append(key)
        source = {"x-amz-copy-source": f"/{self._store.settings.bucket}/{self._key}"}
        answer = await self._ask("PUT", key, headers=source)
        good = answer.status == 200 and not answer.code
        self._judge(
            "copy",
            answer,
            good,
            "copies within the bucket (direct uploads need it)",
            "cannot copy",
            "s3:GetObject and s3:PutObject",
        )

    async def _signatures(self) -> None:
        wrong = await self._asking.ask_with_wrong_signature(self._key)
        if wrong.status in (401, 403):
            self._findings.ok("signatures", "a wrong signature is refused")
        else:
            self._findings.broken(
                "signatures",
                f"a request with a wrong signature is answered with {wrong.said}",
                "this store accepts every request: switch its authentication on",
            )
        anonymous = await self._asking.ask_unsigned("GET", self._key)
        if anonymous.status in (401, 403):
            self._findings.ok("anonymous reads", "refused: files can be read through Butai only")
        elif anonymous.status in (200, 206):
            self._findings.warn(
                "anonymous reads",
                "anyone who knows an object's key can read it from the bucket, private assets too",
                "remove public read access from the bucket (its policy, its ACL); keys that were imported can be guessed",
            )
        else:
            self._findings.warn(
                "anonymous reads", f"a request without a signature is answered with {anonymous.said}", "403 is expected"
            )

    async def _multipart(self) -> None:
        key = f"{self._key}-parts"
        self._made.append(key)
        rights = "s3:PutObject and s3:AbortMultipartUpload"
        begun = await self._ask("POST", key, query={"uploads": ""})
        match = re.search(rb"<UploadId>([^<]+)</UploadId>", begun.body)
        if not self._fine("multipart", begun, begun.status == 200 and match is not None, "cannot begin one", rights):
            return
        assert match is not None
        upload = {"uploadId": match[1].decode()}
        part = await self._ask("PUT", key, query={"partNumber": "1", **upload}, body=BODY)
        ended = await self._ask("DELETE", key, query=upload)
        if self._fine("multipart", part, part.status == 200 and "etag" in part.headers, "takes no part", rights):
            good = ended.status in (200, 204)
            self._judge(
                "multipart", ended, good, "can be created, takes parts, can be aborted", "cannot be aborted", rights
            )

    def _fine(self, check: str, answer: Answer, good: bool, bad: str, right: str) -> bool:  # noqa: FBT001 - the outcome of the check
        return good or self._judge(check, answer, good=False, well="", bad=bad, right=right)

    async def _listing(self) -> None:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                allowed = await may_list(self._store)
        except (ListingError, TimeoutError) as error:
            said = str(error) or f"no answer within {CHECK_SECONDS:.0f} s"
            self._findings.warn("listing", said, "only butai import --list would need it")
            return
        if allowed:
            self._findings.ok("listing", "this identity may list: not needed, but butai import --list works with it")
        else:
            self._findings.ok(
                "listing",
                "this identity may not list, and need not; for butai import bring a listing (--listing), "
                "or run it once with credentials that may",
            )

    async def _delete(self) -> None:
        """Removes all objects of the checks, and adds a finding about it."""
        refused: list[tuple[str, Answer]] = []
        for key in self._made:
            answer = await self._ask("DELETE", key)
            if answer.status not in (200, 204, 404):
                refused.append((key, answer))
        if refused:
            self._judge(
                "delete",
                refused[0][1],
                good=False,
                well="",
                bad=f"could not remove: {', '.join(key for key, _ in refused)} stayed in the bucket",
                right="s3:DeleteObject",
            )
            return
        gone = await self._ask("HEAD", self._key)
        self._judge("delete", gone, gone.status in (403, 404), "may remove", "a removed object is still there")
