"""`python -m butai.relay --folder DIR (--broadcast ID | --standby) [--parent-pipe-fd N]`: see `butai.relay.process`."""

from __future__ import annotations

import os
import sys

from butai.relay.priority import low_priority

if __name__ == "__main__":
    # Loading the code takes a second of a core, which relays on air would lack.
    with low_priority():
        from butai.relay.process import main
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # All is closed. The SDK's native threads may still run, and would abort the process while the interpreter shuts
    # down.
    os._exit(status)
