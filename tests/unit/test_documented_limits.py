"""The tables of `docs/security.md` have the defaults of the settings, and what they call honest does not meet a limit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from butai.config import AssetSettings, HttpSettings, LiveSettings, RateSettings

SECURITY = Path(__file__).parents[2] / "docs" / "security.md"
ROW = re.compile(r"^\| `BUTAI_([A-Z_]+)` \| (.*) \|$", re.MULTILINE)
FEW_CAPS = {"MAX_CONNECTIONS", "MAX_CONNECTIONS_PER_ADDRESS", "MAX_STREAMS", "MAX_ROOMS", "MAX_INVITATIONS"}
QUOTAS = {"OPEN_UPLOADS", "QUOTA_BYTES", "QUOTA_FILES"}


def rows() -> dict[str, list[str]]:
    """The cells behind the name of each setting, in the section of rates, caps and quotas."""
    section = SECURITY.read_text().partition("\n## Rates, caps and quotas\n")[2].partition("\n## ")[0]
    return {name: cells.split(" | ") for name, cells in ROW.findall(section)}


def number(text: str) -> float:
    """12,000 or 0.5, or 20 GiB in bytes."""
    value, _, unit = text.partition(" ")
    return float(value.replace(",", "")) * {"": 1, "GiB": 1024**3}[unit]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in rows():
        monkeypatch.delenv(f"BUTAI_{name}", raising=False)


def test_each_rate_stands_in_the_table_as_it_is() -> None:
    told = {name.removeprefix("RATE_").lower(): cells for name, cells in rows().items() if name.startswith("RATE_")}
    rates = RateSettings()
    assert told.keys() == RateSettings.model_fields.keys()
    for name, (_, burst, per_second, _) in told.items():
        rate = getattr(rates, name)
        assert (number(burst), number(per_second)) == (rate.burst, rate.per_second), name


def test_each_cap_and_quota_stands_in_the_table_as_it_is() -> None:
    told = {name: cells for name, cells in rows().items() if not name.startswith("RATE_")}
    assert told.keys() == FEW_CAPS | QUOTAS
    known = {
        name.upper(): getattr(settings, name)
        for settings in (HttpSettings(), LiveSettings(), AssetSettings())
        for name in type(settings).model_fields
    }
    # A limit of a file's size is no cap of a caller.
    assert {name for name in known if re.fullmatch(r"MAX_(?!.*_BYTES)\w+", name)} <= FEW_CAPS
    for name, (_, default, _) in told.items():
        assert number(default) == known[name], name


def test_an_honest_use_meets_no_limit() -> None:
    http, live, assets, rates = HttpSettings(), LiveSettings(), AssetSettings(), RateSettings()
    people, pictures, a_person_has = 20, 100, 8
    assert 2 * assets.quota_files < rates.write.burst
    assert rates.begin.burst > 10 * 4 + 10
    assert rates.test.burst >= 2 * 10
    assert 2 * live.max_streams < rates.stream.burst
    assert people * pictures < rates.anonymous.burst
    assert rates.invitation.burst > 500
    assert people < rates.guess.burst
    assert rates.probe.per_second >= 5
    assert 500 * a_person_has < http.max_connections
    assert people * pictures < http.max_connections_per_address <= http.max_connections * 3 // 4
    assert live.max_streams > 4 * 10
    assert live.max_rooms > 3 * 300
    assert live.max_invitations > 4000
    assert assets.open_uploads > 10 * 10
    configuration = (SECURITY.parent / "nginx.conf").read_text()
    (burst,), (connections,) = (
        re.findall(r"burst=(\d+)", configuration),
        re.findall(r"_connections (\d+);", configuration),
    )
    assert min(int(burst), int(connections)) > people * pictures
    assert 100 * assets.max_vrm_bytes < assets.quota_bytes
    assert assets.quota_files > 1000 * 3 + 1000
