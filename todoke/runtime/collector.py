"""Python's garbage collector in processes that create much and leave few cycles."""

import gc

# What a request or an attempt leaves behind is freed by counting references; cycles are few and may wait a little.
THRESHOLDS = (50_000, 10, 50)


def calm_collector() -> None:
    """Have the collector leave alone what was imported, and look rarely at the rest.

    At its defaults it walked all imported modules several times a second: a quarter of a worker's time per no-op job,
    and two seconds of silence when five thousand streams were written to at once.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
