"""A job type whose pace the test sets: it goes on when the test creates the next file."""

import time
from pathlib import Path

from pydantic import BaseModel

from todoke.jobs.catalog import job
from todoke.jobs.context import JobContext


class PacedParams(BaseModel):
    """`folder`: where files named 1, 2, … appear; `steps`: how many to wait for."""

    folder: str
    steps: int


@job("paced", timeout=120)
def paced(params: PacedParams, ctx: JobContext) -> str:
    """Go one step for each file that appears."""
    for step in range(1, params.steps + 1):
        while not (Path(params.folder) / str(step)).exists():
            time.sleep(0.02)
        ctx.progress(100 * step / params.steps, f"step {step}")
    return "done"
