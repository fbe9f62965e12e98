"""`python -m butai.relay --folder DIR --broadcast ID [--parent-pipe-fd N]`: see `butai.relay.process`."""

from __future__ import annotations

import os
import sys

from butai.relay.process import main

if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # All is closed. The SDK's native threads may still run, and would abort the process while the interpreter shuts
    # down.
    os._exit(status)
