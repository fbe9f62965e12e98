"""The terms of an avatar's licence that lists filter by, and their values. Pure.

`contents.readers.licence` says what each value permits.
"""

from __future__ import annotations

from typing import Literal

AvatarUse = Literal["author", "licensee", "everyone"]
Commercial = Literal["forbidden", "personal_non_profit", "personal_profit", "corporation"]
Credit = Literal["required", "unnecessary"]
Redistribution = Literal["forbidden", "allowed"]
Modification = Literal["forbidden", "allowed", "allowed_redistribution"]
