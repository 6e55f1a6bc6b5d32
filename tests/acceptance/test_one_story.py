"""One job, three channels: polling, SSE and the webhook say the same, byte for byte where they can."""

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
from standardwebhooks.webhooks import Webhook

from tests.acceptance.conftest import Desk
from tests.acceptance.polling import finished, submit
from todoke.client.receiver import Receiver
from todoke.wire import sse

CSV = "city,day,price\nKyoto,2026-01-01,10\nOsaka,2026-01-02,20\nKyoto,2026-01-03,60\n"


async def frames(url: str, job_id: str) -> list[sse.Frame]:
    decoder, seen = sse.Decoder(), []
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        async with client.stream("GET", f"/jobs/{job_id}/events?lastEventId=earliest") as answer:
            async for chunk in answer.aiter_bytes():
                seen.extend(decoder.feed(chunk))
    return seen


async def test_polling_sse_and_webhook_tell_one_story(desk: Desk) -> None:
    async with Receiver(desk.facts["signingSecret"]) as receiver, httpx.AsyncClient(base_url=desk.url) as client:
        body = {"params": {"csv": CSV}, "callbackUrl": receiver.url, "metadata": {"order": "届け"}}
        job_id = (await client.post("/generate-report", json=body)).json()["jobId"]
        streamed, received = await asyncio.gather(frames(desk.url, job_id), receiver.next())
        polled = (await client.get(f"/jobs/{job_id}")).json()
        log = await client.get(f"/jobs/{job_id}/events", headers={"Accept": "application/json"})
    numbered = [frame for frame in streamed if frame.event != "job.progress"]
    assert [frame.event for frame in numbered] == ["job.accepted", "job.started", "job.succeeded"]
    assert any(frame.event == "job.progress" for frame in streamed), "progress is reported as the job works"
    assert numbered[-1].data.encode() == received.body
    assert log.text == "[" + ",".join(frame.data for frame in numbered) + "]"
    story = json.loads(numbered[-1].data)["data"]
    assert polled | story == polled
    assert story["status"] == "success"
    assert story["metadata"] == {"order": "届け"}
    verified: Any = Webhook(desk.facts["signingSecret"]).verify(received.body, received.headers)
    assert verified == received.event
    assert re.fullmatch(r"[A-Za-z0-9_]{1,64}", received.headers["webhook-id"])


def test_curl_alone_gets_the_result(desk: Desk, tmp_path: Path) -> None:
    """Follows only Location and Retry-After, with the shell's own tools."""
    script = """
    header() { tr -d '\\r' < "$HEAD" | sed -n "s/^$1: //ip" | tail -1; }
    HEAD="$1/head" URL="$2"
    curl -sS -D "$HEAD" -o /dev/null -X POST "$URL/generate-report" -d '{"params":{"csv":"a,b\\n1,x\\n2,y\\n"}}'
    while :; do
        next=$(header location); wait=$(header retry-after)
        [ -n "$wait" ] || break
        sleep "$wait"
        curl -sS -D "$HEAD" -o "$1/status" "$URL$next"
    done
    curl -sS -o "$1/report.html" "$URL$next"
    """
    subprocess.run(["sh", "-ec", script, "sh", str(tmp_path), desk.url], check=True, timeout=60)
    assert json.loads((tmp_path / "status").read_text())["status"] == "success"
    assert 'data-row-count="2"' in (tmp_path / "report.html").read_text()


def test_bad_data_is_a_failed_job_a_person_understands(client: httpx.Client) -> None:
    status = finished(client, submit(client, params={"csv": "a,b\n1,2\n1,2,3\n"}))
    assert status["status"] == "failed"
    assert status["downloadUrl"] is None
    assert "3" in status["error"], "the line is named"
    assert "Traceback" not in status["error"]
    assert re.fullmatch("[A-Z_]+", status["errorCode"])


def test_a_large_report_comes_from_s3(client: httpx.Client) -> None:
    header = ",".join(f"column {number}" for number in range(60))
    rows = "\n".join(",".join(str(row * number % 97) for number in range(60)) for row in range(50))
    status = finished(client, submit(client, params={"csv": f"{header}\n{rows}\n"}))
    assert status["status"] == "success", status["error"]
    redirect = client.get(status["downloadUrl"])
    assert redirect.status_code == 303
    assert redirect.headers["cache-control"] == "no-store"
    with httpx.Client() as anyone:
        answer = anyone.get(redirect.headers["location"])
    assert answer.status_code == 200
    assert len(answer.content) == status["artifacts"][0]["bytes"]


def test_a_job_without_data_reports_the_tenants_activity(client: httpx.Client) -> None:
    finished(client, submit(client, params={"csv": "a\n1\n"}))
    status = finished(client, submit(client))
    assert status["status"] == "success", status["error"]
    summary = client.get(status["resultUrl"], params={"artifact": "result.json"}).json()
    assert summary["rowCount"] >= 2
