"""How many examples hypothesis makes for a property, by profile.

`ci` is the default: the same examples in every run, so that a green run does not hang on luck. `make test-deep` runs the
profile `deep`, which makes many more, others each time; a failure found there is kept as an `@example` of its test.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import settings

# What is generated is to show what hangs: a machine that stands still for a moment has found no bug.
_DEADLINE = timedelta(seconds=60)


def register_profiles() -> None:
    """Makes both known to hypothesis and loads `ci`. pytest's option `--hypothesis-profile` loads another after that."""
    settings.register_profile("ci", max_examples=100, derandomize=True, deadline=_DEADLINE, print_blob=True)
    settings.register_profile("deep", max_examples=1000, deadline=_DEADLINE, print_blob=True)
    settings.load_profile("ci")


def examples(*, ci: int, deep: int, **more: Any) -> settings:
    """Settings for a test: the number of examples in either profile, and `more` of hypothesis's settings."""
    # hypothesis names a profile anew when its options change something in it: `deep-with-verbose-verbosity`.
    return settings(max_examples=deep if settings.get_current_profile_name().startswith("deep") else ci, **more)
