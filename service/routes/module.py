"""`/todoke.js`: the module a page imports to watch a job. Public code: no key, any origin (see cors.py)."""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

WEB = Path(__file__).parent.parent / "web"


class ModuleRoutes:
    """The scripts of `service/web`, as they were when the process started."""

    def add_to(self, router: APIRouter) -> None:
        """Offer the routes, one for each script."""
        for path in sorted(WEB.rglob("*.js")):
            name = "/" + path.relative_to(WEB).as_posix()
            router.add_api_route(name, _serving(path.read_bytes()), methods=["GET", "HEAD"], include_in_schema=False)


def _serving(script: bytes) -> Callable[[Request], Awaitable[Response]]:
    etag = f'"{hashlib.sha256(script).hexdigest()[:32]}"'
    headers = {
        "ETag": etag,
        # The scripts import one another, so all of them are asked after each time.
        "Cache-Control": "no-cache",
    }

    async def serve(request: Request) -> Response:
        known = request.headers.get("if-none-match", "")
        if etag in known.replace("W/", "").replace(" ", "").split(","):
            return Response(status_code=304, headers=headers)
        return Response(script, media_type="text/javascript", headers=headers)

    return serve
