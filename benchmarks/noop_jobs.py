"""Job types of the benchmarks, written as a user would write them."""

import asyncio
import time
from pathlib import Path

from pydantic import BaseModel

from todoke.jobs.catalog import job
from todoke.jobs.context import JobContext


class Nothing(BaseModel):
    """No parameters."""


class Mark(BaseModel):
    """`folder`: where each run of the job leaves a file."""

    folder: str


@job("noop", isolation="async")
async def noop(params: Nothing) -> None:
    """Nothing at all: what remains is the cost of Todoke."""


@job("stay", isolation="async", timeout=900)
async def stay(params: Mark, ctx: JobContext) -> int:
    """Stay in work the first time, return at once when run again; each run notes when it began."""
    note = Path(params.folder) / f"{ctx.job_id}.{ctx.attempt}"
    draft = note.with_suffix(".draft")
    draft.write_text(f"{time.time():.6f}")
    draft.replace(f"{note}.began")
    if ctx.attempt == 1:
        await asyncio.sleep(800)
    return ctx.attempt
