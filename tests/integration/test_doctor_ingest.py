"""What `butai doctor` finds of the ingest's address."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from butai.config import IngestSettings, Settings
from butai.doctor.findings import Finding, Findings, Level
from butai.doctor.ingest import examine_ingest
from tests.ingest_stage import Show, ingest
from tests.platforms import Authority
from tests.processes import free_port


async def examined(url: str) -> Finding:
    findings = Findings("Ingest", [])
    async with asyncio.timeout(30):
        await examine_ingest(replace(Settings(), ingest=IngestSettings(url=url)), findings)
    (found,) = findings.found
    return found


async def test_an_ingest_that_answers_is_well_and_so_is_none() -> None:
    assert (await examined("")).level is Level.OK
    async with ingest(Show()) as (_, port):
        found = await examined(f"rtmp://127.0.0.1:{port}")
    assert (found.level, found.message) == (Level.OK, f"127.0.0.1 port {port} answers")


async def test_what_encoders_would_meet_is_told_with_advice(tmp_path: Path) -> None:
    found = await examined(f"rtmp://127.0.0.1:{free_port()}")
    assert found.level is Level.BROKEN and "does not answer" in found.message and "butai ingest" in found.advice
    async with ingest(Show()) as (_, port):
        found = await examined(f"rtmps://127.0.0.1:{port}")
        assert found.level is Level.BROKEN and "BUTAI_INGEST_CERTIFICATE" in found.advice
    # Of an authority that no encoder knows.
    async with ingest(Show(), tls=Authority(tmp_path).context("127.0.0.1")) as (_, port):
        found = await examined(f"rtmps://127.0.0.1:{port}")
        assert found.level is Level.BROKEN and "certificate" in found.message
        found = await examined(f"rtmp://127.0.0.1:{port}")
        assert found.level is Level.BROKEN and "no RTMP server" in found.message


async def test_another_server_is_no_ingest() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        found = await examined(f"rtmp://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert found.level is Level.BROKEN and "no RTMP server" in found.message
