"""`/docs` and `/redoc`: the API described for people, with nothing from other hosts, under policies of their own."""

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from os import PathLike, stat_result
from pathlib import Path

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

FILES = Path(fastapi_offline.__file__).parent / "static"
PLACE = "static-offline-docs"
INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)
POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def add_reference(app: FastAPI) -> None:
    """Offer the pages. Their addresses are relative, so that they work behind a path."""
    pages = {
        "/docs": get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{app.title}: the API, to try",
            swagger_js_url=f"{PLACE}/swagger-ui-bundle.js",
            swagger_css_url=f"{PLACE}/swagger-ui.css",
            swagger_favicon_url=f"{PLACE}/favicon.png",
        ),
        "/redoc": get_redoc_html(
            openapi_url="openapi.json",
            title=f"{app.title}: the API, to read",
            redoc_js_url=f"{PLACE}/redoc.standalone.js",
            redoc_favicon_url=f"{PLACE}/favicon.png",
            with_google_fonts=False,
        ),
    }
    app.mount(f"/{PLACE}", _Files(directory=FILES))
    for path, page in pages.items():
        app.add_api_route(path, _serving(bytes(page.body)), methods=["GET", "HEAD"], include_in_schema=False)


class _Files(StaticFiles):
    """They change with a new version alone, and are asked after each time."""

    def file_response(
        self, full_path: str | PathLike[str], stat_result: stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """As StaticFiles makes it, to be kept."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _serving(page: bytes) -> Callable[[], Awaitable[Response]]:
    headers = {"Content-Security-Policy": _policy(page.decode()), "Cache-Control": "no-cache"}

    async def serve() -> Response:
        return HTMLResponse(page, headers=headers)

    return serve


def _policy(page: str) -> str:
    """Only the scripts this page was made with run."""
    digests = [hashlib.sha256(script.encode()).digest() for script in INLINE.findall(page)]
    return POLICY.format(scripts="".join(f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in digests))
