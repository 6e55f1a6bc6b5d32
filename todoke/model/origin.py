"""A web origin as a browser spells it: scheme, host, and the port where it is not the usual one."""

import re
from urllib.parse import urlsplit

USUAL_PORTS = {"http": 80, "https": 443}
# Names, IPv4 and bracketed IPv6. No user, path, query or wildcard.
SPELLING = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")


def check_origin(text: str) -> str:
    """The origin itself. Raises ValueError with a sentence that says what to write."""
    if text == "*" or "*" in text:
        raise ValueError(f"{text}: name each origin; a wildcard would let any page use what its visitors may")
    if not SPELLING.fullmatch(text):
        raise ValueError(f"{text!r}: write scheme://host or scheme://host:port, lower case, without path or slash")
    parts = urlsplit(text)
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"{text}: there is no such port") from None
    if port == USUAL_PORTS[parts.scheme]:
        raise ValueError(f"{text}: leave out the usual port, as browsers do")
    return text
