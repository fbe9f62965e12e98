"""Settings of a service with which one can go live, as far as HTTP goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import SecretStr

from butai.config import LiveKitSettings, LiveSettings, Settings
from tests.live_api import SECRET
from tests.processes import free_port


@pytest.fixture
def live_settings(settings: Settings) -> Settings:
    """No LiveKit answers at its address."""
    livekit = LiveKitSettings(url=f"ws://127.0.0.1:{free_port()}", api_key="devkey", api_secret=SecretStr(SECRET))
    live = LiveSettings(secret_key=SecretStr("ab" * 32), allow_private_ingest=True)
    return replace(settings, livekit=livekit, live=live)
