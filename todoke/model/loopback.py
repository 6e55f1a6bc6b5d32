"""This machine as seen from itself: three host names, two networks."""

import ipaddress

HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
NETWORKS = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))


def is_loopback(host: str) -> bool:
    """Whether what binds or names `host`, brackets or not, stays on this machine."""
    return host == "localhost" or is_loopback_address(host.strip("[]"))


def is_loopback_address(address: str) -> bool:
    """Whether an address is in 127.0.0.0/8 or is ::1; no other spelling of them counts, and no zone."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return "%" not in address and any(parsed in network for network in NETWORKS)
