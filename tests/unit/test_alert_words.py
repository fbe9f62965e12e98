"""Every alert that the service raises has words of its own in the console's other language."""

from __future__ import annotations

import re
from pathlib import Path

from butai.errors import Code

ROOT = Path(__file__).parents[2]


def test_each_alert_that_can_be_raised_is_there_in_chinese() -> None:
    sources = [*(ROOT / "src/butai/alerts").glob("*.py"), *(ROOT / "src/butai/assets/patrol").glob("*.py")]
    text = "\n".join(source.read_text() for source in sources)
    named = set(re.findall(r"raise_alert\([^)]*?code=Code\.(\w+)", text, re.DOTALL))
    named |= set(re.findall(r'Condition\(\s*(?:f?"[\w:{}.]+"|Code\.\w+),\s*Code\.(\w+)', text))
    raised = {Code[name].value for name in named}
    # Of outputs the code is the failure's, which is one of two; the patrol's two stops are named where they are told.
    raised |= {"retries_exhausted", "egress_unavailable", "patrol_unreliable", "patrol_mass_missing"}
    assert {"assets_missing", "patrol_stale", "upload_failures", "jobs_failed"} <= raised
    words = (ROOT / "console/src/i18n/operations-zh.ts").read_text()
    said = words[words.index("alertWords: {") :]
    assert raised == set(re.findall(r"^ {4}(\w+): \{\s*title:", said, re.MULTILINE))
