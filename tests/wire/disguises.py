"""Every way known to write an IPv4 address into an IPv6 one."""

import ipaddress
from collections.abc import Callable

DISGUISES: dict[str, Callable[[int], int]] = {
    "compatible ::a.b.c.d": lambda inner: inner,
    "mapped ::ffff:a.b.c.d": lambda inner: 0xFFFF << 32 | inner,
    "SIIT ::ffff:0:a.b.c.d": lambda inner: 0xFFFF << 48 | inner,
    "NAT64 64:ff9b::a.b.c.d": lambda inner: 0x64_FF9B << 96 | inner,
    "NAT64 of a site 64:ff9b:1::a.b.c.d": lambda inner: 0x64_FF9B_0001 << 80 | inner,
    "6to4 2002:a.b:c.d::1": lambda inner: 0x2002 << 112 | inner << 80 | 1,
    "Teredo server": lambda inner: 0x2001_0000 << 96 | inner << 64 | 1,
    "Teredo client, all bits turned": lambda inner: 0x2001_0000 << 96 | (inner ^ 0xFFFF_FFFF),
    "ISATAP 0:5efe": lambda inner: 0x2606_2800_0220_0001 << 64 | 0x5EFE << 32 | inner,
    "ISATAP 200:5efe": lambda inner: 0x2606_2800_0220_0001 << 64 | 0x0200_5EFE << 32 | inner,
    "ISATAP in a private network": lambda inner: 0xFD12 << 112 | 0x5EFE << 32 | inner,
    "ISATAP, link-local": lambda inner: 0xFE80 << 112 | 0x5EFE << 32 | inner,
}


def disguised(spelling: str, inner: ipaddress.IPv4Address) -> ipaddress.IPv6Address:
    """`inner` written as `spelling`, a key of DISGUISES."""
    return ipaddress.IPv6Address(DISGUISES[spelling](int(inner)))
