"""What we sign, others verify, and what was not signed they refuse."""

import base64
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.verifiers.conftest import LOCK, OK, Case, Verify
from todoke.client.verify import verify_webhook
from todoke.model.errors import InvalidInput
from todoke.wire.asymmetric import SigningKey, jwk, new_signing_key
from todoke.wire.signed import SIGNATURE
from todoke.wire.signing import Signer, new_secret, parse_secret

BODIES = {
    "small": b'{"type":"job.succeeded","data":{"sequence":3}}',
    "not ASCII": '{"type":"job.failed","data":{"error":"届かない 📮 “é”"}}'.encode(),
    "20 kB": json.dumps({"type": "job.succeeded", "data": {"text": "é" * 9_980}}, ensure_ascii=False).encode(),
}
WEBHOOK_ID = "evt_0192a1b2-0000-7000-8000-000000000000_3"
HMAC = {"PyPI standardwebhooks", "PyPI svix", "npm standardwebhooks", "npm svix"}
ALL = HMAC | {"node ed25519"}


class Sender:
    """A service with two secrets and two keys, each with its previous one."""

    def __init__(self) -> None:
        self.secrets = [new_secret(), new_secret()]
        self.keys = [SigningKey.parse(new_signing_key()) for _ in range(2)]
        self.now = int(time.time())

    def case(self, secrets: int = 1, keys: int = 0, body: bytes = BODIES["small"], age: int = 0) -> Case:
        """A webhook signed with so many secrets and keys, for a receiver that holds the newest."""
        signer = Signer([parse_secret(text) for text in self.secrets[:secrets]], self.keys[:keys])
        headers = signer.headers(WEBHOOK_ID, self.now - age, body)
        return Case(self.secrets[0], headers, body, self.now, jwk(self.keys[0].public) if keys else None)


@pytest.fixture
def sender() -> Sender:
    return Sender()


def entries(case: Case) -> list[str]:
    return case.headers[SIGNATURE].split(" ")


def with_line(case: Case, line: str) -> Case:
    return replace(case, headers=case.headers | {SIGNATURE: line})


def assert_taken(verdicts: Verify, cases: list[Case]) -> None:
    for case, verdict in zip(cases, verdicts(cases), strict=True):
        assert verdict == dict.fromkeys(ALL if case.jwk else HMAC, OK), case


def assert_refused(verdicts: Verify, cases: list[Case], by: set[str] = HMAC) -> None:
    """By each of them, in words of its own: never a crash of another kind."""
    for case, verdict in zip(cases, verdicts(cases), strict=True):
        found = {name: verdict[name] for name in by}
        refusal = {name: "Error" if name == "node ed25519" else "WebhookVerificationError" for name in by}
        assert found == refusal, case


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_all_take_what_we_sign(verdicts: Verify, sender: Sender, body: bytes) -> None:
    assert_taken(verdicts, [sender.case(secrets, keys, body) for secrets in (1, 2) for keys in (0, 1, 2)])


def test_while_secrets_and_keys_rotate_receivers_may_hold_either(verdicts: Verify, sender: Sender) -> None:
    both = sender.case(2, 2)
    old = replace(both, secret=sender.secrets[1], jwk=jwk(sender.keys[1].public))
    assert_taken(verdicts, [both, old])


def test_the_order_of_signatures_does_not_matter(verdicts: Verify, sender: Sender) -> None:
    case = sender.case(2, 1)
    assert_taken(verdicts, [with_line(case, " ".join(order)) for order in itertools.permutations(entries(case))])


def test_five_minutes_are_the_limit(verdicts: Verify, sender: Sender) -> None:
    assert_taken(verdicts, [sender.case(age=age) for age in (299, -299)])
    assert_refused(verdicts, [sender.case(age=age) for age in (301, -301)])


def test_another_secret_or_key_refuses(verdicts: Verify, sender: Sender) -> None:
    stranger = Sender()
    assert_refused(
        verdicts,
        [replace(sender.case(2, 2), secret=stranger.secrets[0], jwk=jwk(stranger.keys[0].public))],
        by=ALL,
    )


def test_v1a_alone_is_nothing_to_hmac_and_v1_alone_nothing_to_ed25519(verdicts: Verify, sender: Sender) -> None:
    hmac, ed25519 = entries(sender.case(1, 1))
    case = sender.case(1, 1)
    assert_refused(verdicts, [with_line(case, ed25519)])
    assert_refused(verdicts, [with_line(case, hmac)], by={"node ed25519"})


def test_one_byte_changed_anywhere_refuses(verdicts: Verify, sender: Sender) -> None:
    assert_refused(verdicts, list(changed(sender.case(2, 1))), by=ALL)


def changed(case: Case) -> Iterator[Case]:
    """The same webhook with one byte of id, timestamp or body made another, in several places."""
    for place in (0, len(WEBHOOK_ID) // 2, len(WEBHOOK_ID) - 1):
        yield replace(case, headers=case.headers | {"webhook-id": flipped(WEBHOOK_ID.encode(), place).decode()})
    timestamp = case.headers["webhook-timestamp"]
    yield replace(case, headers=case.headers | {"webhook-timestamp": str(int(timestamp) - 1)})
    for place in range(0, len(case.body), 7):
        yield replace(case, body=flipped(case.body, place))


def flipped(text: bytes, place: int) -> bytes:
    return text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :]


def test_the_same_json_written_anew_refuses(verdicts: Verify, sender: Sender) -> None:
    case = sender.case(1, 1, BODIES["not ASCII"])
    event = json.loads(case.body)
    anew = [json.dumps(event), json.dumps(event, ensure_ascii=False), json.dumps(event, indent=2)]
    assert_refused(verdicts, [replace(case, body=text.encode()) for text in anew], by=ALL)


@pytest.mark.parametrize(
    ("line", "said"), [("nonsense {}", "ValueError"), ("v1,AAAA  {}", "ValueError"), ("v1,A {}", "Error")]
)
def test_lines_unlike_ours_trip_libraries(verdicts: Verify, sender: Sender, line: str, said: str) -> None:
    """As docs/verifying.md tells: PyPI's raise what is no refusal of theirs, although a good signature stands there."""
    case = sender.case()
    [verdict] = verdicts([with_line(case, line.format(entries(case)[0]))])
    assert verdict == {
        "PyPI standardwebhooks": said,
        "PyPI svix": said,
        "npm standardwebhooks": OK,
        "npm svix": OK,
    }
    assert verify_webhook(case.secret, {**case.headers, SIGNATURE: line.format(entries(case)[0])}, case.body, case.now)


def test_libraries_take_a_public_key_for_a_secret(verdicts: Verify, sender: Sender) -> None:
    """As docs/verifying.md warns: with a whpk_ in the place of a secret, whoever knows the public key can sign."""
    public = sender.keys[0].public
    # The key as PyPI's libraries read it: what is not base64 is dropped.
    forger = Signer([base64.b64decode(public)])
    forged = Case(public, forger.headers(WEBHOOK_ID, sender.now, BODIES["small"]), BODIES["small"], sender.now)
    [verdict] = verdicts([forged])
    assert {name for name in verdict if verdict[name] == OK} == {"PyPI standardwebhooks", "PyPI svix"}
    with pytest.raises(InvalidInput, match="starts with whsec_"):
        verify_webhook(public, forged.headers, forged.body, forged.now)


def test_the_lock_names_no_registry() -> None:
    packages = json.loads(LOCK.read_text())["packages"]
    assert "://" not in LOCK.read_text()
    assert all("resolved" not in package for package in packages.values())
    assert all(package["integrity"].startswith("sha512-") for name, package in packages.items() if name)
