"""What the library makes of the files in a folder: `scripts/try-files DIR`.

Prints a line for each file that it would refuse, could not read or not decode, with the reason, and what ffprobe or
Khronos' validator say of it where they are there (for the validator: `npm ci` in `tests/e2e/gltf_validator`). Nothing is stored.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from butai.assets.contents import decode_tasks
from butai.assets.contents.tasks import GLB_EXTENSIONS, SOUNDS, read_facts
from butai.assets.kinds import FORMATS, HEAD_BYTES, AssetType, size_limit
from butai.config import AssetSettings
from butai.errors import ButaiError, FileTooLarge

VALIDATOR = Path(__file__).parents[1] / "tests/e2e/gltf_validator"


def main() -> int:
    """Tries all files below the folder on the command line. Returns 1 when one was refused."""
    if len(sys.argv) != 2 or not (folder := Path(sys.argv[1])).is_dir():
        sys.stderr.write("usage: scripts/try-files DIR\n")
        return 2
    counts: Counter[str] = Counter()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        kind = type_of(path)
        verdict = "other" if kind is None else asyncio.run(tried(path, kind, path.stat().st_size))
        counts[verdict.partition(":")[0]] += 1
        if kind is not None and verdict != "taken":
            print(f"{path.relative_to(folder)}\t{verdict}\t{others_say(path)}", flush=True)
    print(", ".join(f"{count} {word}" for word, count in counts.most_common()) or "no files")
    return int(bool(counts.keys() - {"taken", "other"}))


def type_of(path: Path) -> AssetType | None:
    """The first type of asset that takes this extension."""
    return next((kind for kind in FORMATS if path.suffix[1:].lower() in FORMATS[kind]), None)


async def tried(path: Path, kind: AssetType, size: int) -> str:
    """`taken`, or what would happen to the file: `refused`, `unread` or `not decoded`, and the code."""
    extension = path.suffix[1:].lower()

    async def read(start: int, length: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    try:
        if size > size_limit(AssetSettings(), kind, None):
            raise FileTooLarge
        FORMATS[kind][extension].check(await read(0, HEAD_BYTES), size)
    except ButaiError as error:
        return f"refused: {error.code}: {error.detail}"
    try:
        await read_facts(read, size, kind, extension)
    except ButaiError as error:
        return f"unread: {error.code}: {error.detail}"
    if (decoded := decode_tasks.KINDS.get(kind)) is not None:
        _, problem = await decode_tasks.decode_file(decoded, str(path))
        if (problem := decode_tasks.of_a_read_head(problem, extension)) is not None:
            return f"not decoded: {problem}"
    return "taken"


def others_say(path: Path) -> str:
    """The word of the format's own tools; empty where they are not installed."""
    extension = path.suffix[1:].lower()
    if extension in (*GLB_EXTENSIONS, "gltf") and (VALIDATOR / "node_modules").is_dir():
        ended = subprocess.run(
            ["node", "validate.mjs", str(path.resolve())],  # noqa: S607 - from the PATH, as in the tests
            cwd=VALIDATOR,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            return f"validator: {ended.stderr.strip().splitlines()[-1:]}"
        return f"validator: {json.loads(ended.stdout)['errors'][:3] or 'no error'}"
    if extension in (*SOUNDS, "hdr", "exr", "png", "jpg", "jpeg", "webp") and shutil.which("ffprobe"):
        asked = ["ffprobe", "-v", "error", "-show_entries", "format=format_name,duration", "-of", "csv=p=0", str(path)]
        ended = subprocess.run(asked, capture_output=True, text=True, check=False)
        return f"ffprobe: {' '.join((ended.stdout or ended.stderr).split())[:200]}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
