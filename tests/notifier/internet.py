"""A small internet on loopback: names, addresses, and attempts that run while an honest receiver is served."""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field

from notifier.sender import Sender
from notifier.transport import Stamp, VettedTransport
from todoke.model.delivery import Answer, Reason
from todoke.wire.destination import Rules

HOST, HONEST = "hooks.example.com", "honest.example.org"
ADDRESSES = {HOST: "93.184.216.34", HONEST: "93.184.217.35"}
# Both over plain HTTP too.
RULES = Rules(hosts=tuple(f"{host}:80" for host in ADDRESSES))
BODY = b'{"type":"job.succeeded"}'
DEADLINE = 1.0
HONEST_POSTS = 10


def no_stamp() -> dict[str, str]:
    return {}


@dataclass
class Internet:
    """`ports`: for each host the port on loopback it really is. Look-ups and dials are recorded."""

    ports: dict[str, int]
    asked: list[str] = field(default_factory=list)
    dialled: list[str] = field(default_factory=list)

    async def look_up(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return [ADDRESSES[host]]

    async def dial(self, address: str, port: int) -> tuple[socket.socket, str]:
        self.dialled.append(address)
        link = socket.socket()
        link.setblocking(False)
        [host] = [name for name, known in ADDRESSES.items() if known == address]
        try:
            await asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", self.ports[host]))
        except BaseException:
            link.close()
            raise
        return link, address

    def transport(self, tls: ssl.SSLContext | None = None, rules: Rules = RULES) -> VettedTransport:
        nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return VettedTransport(rules, lookup=self.look_up, dial=self.dial, tls=tls or nobody)


async def post(transport: VettedTransport, url: str, seconds: float = DEADLINE, stamp: Stamp = no_stamp) -> Answer:
    """One attempt, as the notifier makes it."""
    return await Sender(transport, seconds, 1024).post(url, {}, BODY, stamp)


async def post_beside_honest(transport: VettedTransport, url: str) -> Answer:
    """One attempt while an honest receiver gets others: these all arrive, before a hostile one has timed out."""
    attempt = asyncio.create_task(post(transport, url))
    scheme = url.partition(":")[0]
    honest = [await post(transport, f"{scheme}://{HONEST}/", 10) for _ in range(HONEST_POSTS)]
    was_pending = not attempt.done()
    answer = await attempt
    assert [one.reason for one in honest] == [Reason.DELIVERED] * HONEST_POSTS
    assert was_pending or answer.reason is not Reason.TIMEOUT, "the honest ones waited for the hostile one"
    return answer
