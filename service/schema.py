"""What the OpenAPI description says about keys, where they are required."""

from typing import Any

from fastapi import FastAPI

KEY = {"type": "http", "scheme": "bearer", "description": "An API key, `tdk_…`, of `todoke keys create`."}
TICKET = {
    "type": "apiKey",
    "in": "query",
    "name": "ticket",
    "description": "A ticket of a submit answer or of `POST /jobs/{job_id}/tokens`; for this job and its events only.",
}
WATCHING = "/jobs/{job_id}/events"


def tell_of_keys(app: FastAPI) -> None:
    """Have every operation ask for a key; the one that streams a job takes a ticket as well."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        found = plain()
        if "security" not in found:
            found.setdefault("components", {})["securitySchemes"] = {"apiKey": KEY, "ticket": TICKET}
            found["security"] = [{"apiKey": []}]
            found["paths"][WATCHING]["get"]["security"] = [{"apiKey": []}, {"ticket": []}]
        return found

    app.openapi = described  # type: ignore[method-assign]
