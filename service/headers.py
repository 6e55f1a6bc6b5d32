"""The headers that every answer has, unless the route that made it says something else."""

JSON_POLICY = "default-src 'none'; frame-ancestors 'none'"
# Nothing is guessed at, told to other sites, embedded by them or kept on the way.
SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": JSON_POLICY,
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
HSTS_SECONDS = 365 * 24 * 3600


def defaults(public_url: str | None) -> tuple[tuple[bytes, bytes], ...]:
    """As ASGI has them. A browser is told to insist on TLS only where callers come by it."""
    found = dict(SAFE)
    if public_url is not None and public_url.startswith("https://"):
        found["strict-transport-security"] = f"max-age={HSTS_SECONDS}"
    return tuple((name.encode(), value.encode()) for name, value in found.items())
