"""`todoke webhooks test`: have a receiver tested by the API's own notifier, and say what to change in it."""

from typing import Any

from todoke.client.api import Api
from todoke.client.testing import run_test
from todoke.operator.showing import say, show_json, show_table

COLUMNS = ("probe", "expected", "got", "seconds", "verdict")


async def show_test(api: str, key: str | None, url: str, *, is_self_test: bool, as_json: bool) -> int:
    """Have it tested and show the report; the exit code."""
    found = await run_test(Api(api, key), url, is_self_test=is_self_test)
    if as_json:
        show_json(found)
    else:
        _show(found["report"])
    return int(found["report"]["grade"] != "pass")


def _show(report: dict[str, Any]) -> None:
    probes = report["probes"]
    rows = [
        [each["probe"], each["expected"], each["status"] or each["reason"], each["seconds"], each["verdict"]]
        for each in probes
    ]
    if rows:
        show_table("Probes", COLUMNS, rows)
    say(f"grade: {report['grade']}")
    if report["advice"]:
        say(report["advice"])
    for advice in dict.fromkeys(each["advice"] for each in probes if each["advice"]):
        say(f"{', '.join(each['probe'] for each in probes if each['advice'] == advice)}: {advice}")
    if report.get("endpointEnabled"):
        say(f"the endpoint was disabled and is enabled again; {report['redelivered']} parked deliveries are sent now")
