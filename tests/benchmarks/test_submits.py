"""The machinery of the submits and flood benchmarks with a handful of requests; nothing here looks at a clock."""

from collections.abc import Iterator

import pytest

from benchmarks import flood, submits
from benchmarks.stage import Stage, stage
from benchmarks.submits import Size
from benchmarks.submits_servers import ASYNCPG, BARE, TODOKE

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def here() -> Iterator[Stage]:
    with stage() as found:
        yield found


def test_every_server_is_asked(here: Stage) -> None:
    size = Size(0.5, 0.1, 4)
    found = submits.measure(here, (TODOKE, ASYNCPG, BARE), size, 1)
    assert all(figures.rates for (_, line), figures in found.items() if "long poll" not in line)
    assert "Above (b)" in submits.report(found, size)


def test_a_flood_is_refused_and_the_other_tenant_is_not(here: Stage) -> None:
    found = flood.measure(here, 0.5, 1)
    assert [len(rounds) for rounds in found.values()] == [1, 1]
    assert flood.BESIDE in flood.report(found)
