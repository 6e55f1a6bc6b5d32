"""When a job whose attempt failed is tried again."""

import random

FIRST_SECONDS = 2.0
MOST_SECONDS = 900.0


def backoff(failures: int) -> float:
    """Seconds before the next attempt after `failures` failed ones (1 or more): doubling, with jitter."""
    steady = min(MOST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures - 1, 30))
    return steady * random.uniform(0.5, 1.5)  # noqa: S311 - jitter is no secret
