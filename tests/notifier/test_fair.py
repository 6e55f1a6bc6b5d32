"""Who gets the slots: nobody waits behind another's backlog. Asserted by order and counts, never by time."""

import random
from collections import Counter, defaultdict
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from notifier.claimer import ENDPOINTS_MAX
from notifier.fairness import ALONE_SHARE, CROWDED_SHARE, FAILING_SHARE, InFlight, share
from tests.conftest import until
from tests.notifier.backlog import CAP, NO_PIVOT, came_to, count, owe_many
from tests.notifier.conftest import notifying
from tests.notifier.receiver import OK, receiving
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.deliveries import TENANT_ENDPOINTS_MAX, TENANTS_MAX, Deliveries, Due

SLOTS = 64
BACKLOG, SMALL = 20_000, 50

SPOTS = [(f"t{number % 7}", UUID(int=number)) for number in range(60)]
DUES = st.lists(
    st.tuples(st.sampled_from(SPOTS), st.integers(0, 5), st.none() | st.integers(1, 8), st.booleans(), st.booleans()),
    unique_by=lambda values: values[0],
    max_size=60,
).map(lambda found: [_due(*values) for values in found])


def _due(spot: tuple[str, UUID], leased: int, cap: int | None, is_failing: bool, is_blocked: bool) -> Due:
    is_open = is_failing and leased % 2 == 0
    return Due(*spot, leased, cap, is_open=is_open, is_failing=is_failing, is_blocked=is_blocked)


def _room(due: Due) -> int:
    cap = 1 if due.is_open else CAP if due.cap is None else due.cap
    return 0 if due.is_blocked else max(0, cap - due.leased)


@given(seen=DUES, slots=st.integers(1, 64), taken=st.lists(st.sampled_from(SPOTS), max_size=64))
def test_a_share_keeps_every_bound_and_leaves_nobody_out(seen: list[Due], slots: int, taken: list) -> None:  # type: ignore[type-arg]
    in_flight = InFlight()
    for number, (tenant_id, _) in enumerate(taken[:slots]):
        in_flight.add(tenant_id, number % 3 == 0)
    free = slots - in_flight.total
    amounts = share(seen, in_flight, slots, CAP)
    dues = {(due.tenant_id, due.endpoint_id): due for due in seen}
    assert all(0 < amount <= _room(dues[spot]) for spot, amount in amounts.items())
    assert sum(amounts.values()) <= free
    most = max(1, int(slots * FAILING_SHARE))
    failing = sum(amount for spot, amount in amounts.items() if dues[spot].is_failing)
    assert failing <= max(0, most - in_flight.failing)
    tenants = {due.tenant_id for due in seen if _room(due)}
    part = max(1, int(slots * (ALONE_SHARE if len(tenants) < 2 else CROWDED_SHARE)))
    given_to: Counter[str] = Counter()
    for (tenant_id, _), amount in amounts.items():
        given_to[tenant_id] += amount
    for tenant_id in tenants:
        assert given_to[tenant_id] <= max(0, part - in_flight.by_tenant[tenant_id])
    _nobody_is_left_out(seen, in_flight, part, free, given_to)


def _nobody_is_left_out(seen: list[Due], in_flight: InFlight, part: int, free: int, given_to: Counter[str]) -> None:
    """A tenant with a healthy endpoint with room, below its part, gets something unless the slots ran out first."""
    healthy = {due.tenant_id for due in seen if _room(due) and not due.is_failing}
    for tenant_id in healthy:
        if not given_to[tenant_id] and in_flight.by_tenant[tenant_id] < part:
            assert sum(given_to.values()) == free
            assert max(given_to.values(), default=1) <= 2, "nobody had a third one before it"


class Rounds(RuleBasedStateMachine):
    """A claimer's looks and shares over a store of counts, with sends that end in any order."""

    @initialize(due=st.dictionaries(st.sampled_from(SPOTS), st.integers(1, 200), min_size=1))
    def begin(self, due: dict[tuple[str, UUID], int]) -> None:
        self.due = dict(due)
        self.sending: list[tuple[str, UUID]] = []
        self.failing = {spot for spot in SPOTS if spot[1].int % 5 == 0}
        self.in_flight = InFlight()
        self.waited: Counter[str] = Counter()

    @rule(chance=st.randoms(use_true_random=False))
    def claim(self, chance: random.Random) -> None:
        leased = Counter(self.sending)
        spots = sorted((spot for spot, left in self.due.items() if left), key=lambda spot: spot[0])
        pivot = UUID(int=chance.randrange(60))
        spots.sort(key=lambda spot: (spot[0], spot[1] < pivot, spot[1]))
        seen = [Due(*spot, leased[spot], None, False, spot in self.failing, False) for spot in spots]
        for spot, amount in share(seen, self.in_flight, 16, CAP).items():
            amount = min(amount, self.due[spot])
            self.due[spot] -= amount
            for _ in range(amount):
                self.sending.append(spot)
                self.in_flight.add(spot[0], spot in self.failing)

    @rule(chance=st.randoms(use_true_random=False), part=st.floats(0.1, 1))
    def end(self, chance: random.Random, part: float) -> None:
        chance.shuffle(self.sending)
        for _ in range(int(len(self.sending) * part)):
            spot = self.sending.pop()
            self.in_flight.remove(spot[0], spot in self.failing)

    @invariant()
    def bounds(self) -> None:
        if not hasattr(self, "sending"):
            return
        assert self.in_flight.total == len(self.sending) <= 16
        assert self.in_flight.failing == sum(spot in self.failing for spot in self.sending) <= 4
        assert max(Counter(self.sending).values(), default=0) <= CAP
        assert max(self.in_flight.by_tenant.values(), default=0) <= 12

    def teardown(self) -> None:
        """Everybody is served in the end."""
        if not hasattr(self, "due"):
            return
        chance = random.Random(1)
        for _ in range(4 * sum(self.due.values()) + 10):
            self.claim(chance)  # type: ignore[call-arg]
            self.end(chance, 1.0)  # type: ignore[call-arg]
        assert not any(self.due.values())


TestRounds = Rounds.TestCase


async def test_a_backlog_of_one_tenant_does_not_keep_fifty_others_from_the_first_claim(database: Database) -> None:
    await owe_many(database, ["https://a.example.com/"], BACKLOG, tenant_id="a")
    for number in range(SMALL):
        await owe_many(database, ["https://b.example.com/"], 2, tenant_id=f"small{number:02}")
    deliveries = Deliveries(database, CAP)
    in_flight, taken = InFlight(), []
    for turn in range(2):
        seen = await deliveries.look("", uuid4(), ENDPOINTS_MAX)
        claimed = await deliveries.claim(share(seen, in_flight, SLOTS, CAP), 60)
        tenants = Counter(each.tenant_id for each in claimed)
        taken.append(tenants)
        assert len(tenants) == SMALL + (turn == 0) or turn, tenants
        assert tenants["a"] <= CAP
        await deliveries.record([came_to(each, 200) for each in claimed])
    assert sum((each for each in taken), Counter()) - Counter({"a": 10**6}) == Counter(
        {f"small{number:02}": 2 for number in range(SMALL)}
    )


async def test_a_backlog_does_not_come_before_small_tenants_end_to_end(settings: Settings, database: Database) -> None:
    backlog = 20_000
    async with receiving() as receiver:
        await owe_many(database, [f"{receiver.url}/big"], backlog, tenant_id="a")
        for number in range(SMALL):
            await owe_many(database, [f"{receiver.url}/{number}"], 2, tenant_id=f"small{number:02}")
        async with notifying(settings.model_copy(update={"webhook_slots": SLOTS})):
            await until(lambda: _others(receiver.received) == 2 * SMALL, 40)
        places = [place for place, each in enumerate(receiver.received) if "/big" not in each.target]
    before = max(places) + 1 - 2 * SMALL
    assert before < 30 * CAP, "of twenty thousand, a few claims' worth came before the last small one"


def _others(received: list) -> int:  # type: ignore[type-arg]
    return sum("/big" not in each.target for each in received)


async def test_a_tenant_with_a_thousand_endpoints_gets_no_more_than_one_with_one(database: Database) -> None:
    await owe_many(database, [f"https://a{number}.example.com/" for number in range(1000)], 4, tenant_id="wide")
    await owe_many(database, ["https://b.example.com/"], 100, tenant_id="z-narrow")
    deliveries = Deliveries(database, CAP)
    for _ in range(5):
        seen = await deliveries.look("", uuid4(), ENDPOINTS_MAX)
        assert Counter(due.tenant_id for due in seen) == {"wide": TENANT_ENDPOINTS_MAX, "z-narrow": 1}
        claimed = await deliveries.claim(share(seen, InFlight(), SLOTS, CAP), 60)
        tenants = Counter(each.tenant_id for each in claimed)
        assert tenants == {"wide": int(SLOTS * CROWDED_SHARE), "z-narrow": CAP}
        await deliveries.record([came_to(each, 200) for each in claimed])


async def test_random_pivots_visit_every_endpoint_of_a_wide_tenant(database: Database) -> None:
    await owe_many(database, [f"https://a{number}.example.com/" for number in range(200)], tenant_id="wide")
    deliveries = Deliveries(database, CAP)
    met: set[UUID] = set()
    for _ in range(150):
        seen = await deliveries.look("", uuid4(), ENDPOINTS_MAX)
        assert len({due.endpoint_id for due in seen}) == TENANT_ENDPOINTS_MAX, "nobody twice, also round the end"
        met |= {due.endpoint_id for due in seen}
    assert len(met) >= 198


async def test_looks_go_from_tenant_to_tenant_and_meet_all(database: Database) -> None:
    """More tenants, and more endpoints in all, than one look takes."""
    tenants = [f"t{number:03}" for number in range(2 * TENANTS_MAX + 7)]
    for number, tenant_id in enumerate(tenants):
        urls = [f"https://{place}.example.com/" for place in range(1 + 39 * (number % 40 == 0))]
        await owe_many(database, urls, tenant_id=tenant_id)
    deliveries = Deliveries(database, CAP)
    met: defaultdict[str, int] = defaultdict(int)
    after, looks = "", 0
    while seen := await deliveries.look(after, uuid4(), ENDPOINTS_MAX):
        looks += 1
        order = [due.tenant_id for due in seen]
        assert order == sorted(order), "or the next look would leave somebody out"
        assert order[0] > after
        for due in seen:
            met[due.tenant_id] += 1
        after = seen[-1].tenant_id
    assert sorted(met) == tenants
    assert looks <= 6


async def test_failing_endpoints_never_hold_more_than_their_part_of_the_slots(
    settings: Settings, database: Database
) -> None:
    """Two hundred endpoints that never answer, each known to fail; the healthy ones go through beside them."""
    slots, crowd = 16, {"now": 0, "most": 0}
    release = False

    async def stuck(received: object, writer: object) -> None:
        if "/bad" not in received.target:  # type: ignore[attr-defined]
            writer.write(OK)  # type: ignore[attr-defined]
            return
        crowd["now"] += 1
        crowd["most"] = max(crowd["most"], crowd["now"])
        await until(lambda: release, 60)
        crowd["now"] -= 1
        writer.write(OK)  # type: ignore[attr-defined]

    async with receiving(*[stuck] * 2_000) as receiver:
        for number in range(20):
            urls = [f"{receiver.url}/bad{place}" for place in range(10)]
            await owe_many(database, urls, 2, tenant_id=f"bad{number:02}")
        await database.fetch(
            "INSERT INTO endpoint (id, tenant_id, url, failures, strain, updated_at)"
            " SELECT DISTINCT endpoint_id, tenant_id, url, 1, 1, now() FROM delivery"
        )
        await owe_many(database, [f"{receiver.url}/good"], 300, tenant_id="good")
        patient = settings.model_copy(update={"webhook_slots": slots, "webhook_timeout_seconds": 30.0})
        async with notifying(patient.model_copy(update={"webhook_lease_seconds": 60.0})):
            await until(lambda: _good(receiver.received) == 300, 60)
            assert crowd["most"] == int(slots * FAILING_SHARE)
            release = True
    assert await count(database, "tenant_id = 'good' AND state = 'DELIVERED'") == 300


def _good(received: list) -> int:  # type: ignore[type-arg]
    return sum("/good" in each.target for each in received)


async def test_a_look_of_nothing_is_nothing(database: Database) -> None:
    assert await Deliveries(database, CAP).look("", NO_PIVOT, ENDPOINTS_MAX) == []
