"""Reads the facts of a large glTF document in a process with limits of its own, which harms no other one.

`python -m butai.assets.contents.readers.model_child KIND FORM START LENGTH PATH` prints one line of JSON: the facts and the
places of pictures, or the code of an error. PATH has the JSON alone; START and LENGTH are those of the BIN chunk in the whole
file, -1 without one.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import asdict
from pathlib import Path

from butai.assets.contents.readers import confinement
from butai.assets.contents.readers.document import document_facts
from butai.assets.contents.readers.glb import Glb, parsed
from butai.assets.kinds import AssetType
from butai.errors import InspectionTooLarge, UploadRefused

MEMORY = 2 * 1024**3
"""Most bytes of address space. 32 MiB of numbers and short lists, parsed, take 1 GiB."""

CPU_SECONDS = 15

VALUES_LIMIT = 4_000_000
"""Most values of a document, counted by its commas and brackets: ten times those that are parsed in the worker."""


def main() -> None:
    """Sets the limits, reads the file on the command line, prints the result."""
    kind, form, start, length, path = sys.argv[1:6]
    for limit, value in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    with Path(path).open("rb") as file:
        confinement.confine()
        text = file.read()
    binary = (int(start), int(length)) if int(start) >= 0 else None
    try:
        facts, places = document_facts(Glb(parsed(text, VALUES_LIMIT), binary), AssetType(kind), form)
    except UploadRefused as error:
        sys.stdout.write(json.dumps({"error": error.code}) + "\n")
        return
    except MemoryError:
        sys.stdout.write(json.dumps({"error": InspectionTooLarge.code}) + "\n")
        return
    sys.stdout.write(json.dumps({"facts": asdict(facts), "places": places}) + "\n")


if __name__ == "__main__":
    main()
