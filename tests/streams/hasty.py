"""The API with a shorter write deadline, so that a test need not wait 20 s: `python -m tests.streams.hasty SECONDS`."""

import runpy
import sys

from service import seat

if __name__ == "__main__":
    seat.WRITE_SECONDS = float(sys.argv[1])
    runpy.run_module("service", run_name="__main__")
