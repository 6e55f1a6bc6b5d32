"""The decorator refuses at import time what could not work later."""

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from todoke.jobs.catalog import JobType, job, load_catalog
from todoke.jobs.context import JobContext


class Params(BaseModel):
    word: str


@job("say-it", timeout=5, max_attempts=2, isolation="thread")
def say_it(params: Params, ctx: JobContext) -> str:
    """Say a word.

    More about it.
    """
    return params.word


def test_what_a_declaration_gives() -> None:
    assert isinstance(say_it, JobType)
    assert (say_it.name, say_it.timeout, say_it.max_attempts, say_it.isolation) == ("say-it", 5, 2, "thread")
    assert say_it.params is Params
    assert say_it.takes_context
    assert say_it.summary == "Say a word."
    assert say_it(Params(word="hi"), None) == "hi"


def no_params() -> str:
    return ""


def untyped(params, ctx) -> str:  # type: ignore[no-untyped-def]
    return ""


def no_return(params: Params):  # type: ignore[no-untyped-def]
    return ""


async def coroutine(params: Params) -> str:
    await asyncio.sleep(0)
    return ""


def plain(params: Params) -> str:
    return ""


@pytest.mark.parametrize(
    ("function", "isolation"),
    [
        (no_params, "process"),
        (untyped, "process"),
        (no_return, "process"),
        (coroutine, "process"),
        (plain, "async"),
        (lambda params: "", "process"),
    ],
)
def test_what_cannot_work_is_refused(function: object, isolation: str) -> None:
    with pytest.raises(TypeError, match="'x-y'"):
        job("x-y", isolation=isolation)(function)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "Report", "a b", "a_b", "-a", "a/b", "a-"])
def test_a_name_must_fit_a_path(name: str) -> None:
    with pytest.raises(ValueError, match="hyphens"):
        job(name)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"timeout": 0}, "timeout must be above 0"),
        ({"timeout": float("nan")}, "timeout must be above 0"),
        ({"max_attempts": 0}, "max_attempts at least 1"),
        ({"priority": 10}, "from -9 to 9"),
        ({"priority": 1.5}, "whole number"),
        ({"priority": True}, "whole number"),
        ({"expires": 0}, "expires must be above 0 seconds; leave it out"),
        ({"expires": float("inf")}, "expires must be above 0"),
        ({"memory_mb": 63}, "at least 64"),
        ({"memory_mb": 99.5}, "whole number"),
        ({"memory_mb": 512, "isolation": "thread"}, "needs isolation 'process'"),
        ({"concurrency": 0}, "concurrency must be a whole number of at least 1"),
        ({"concurrency_by": "word"}, "concurrency_by needs concurrency"),
        ({"concurrency": 2, "concurrency_by": "wrod"}, r"'wrod' must name a field of params \(word\)"),
    ],
)
def test_a_policy_that_cannot_be_kept_is_refused_in_a_sentence(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        job("x-y", **wrong)(plain)


def test_what_a_declaration_may_say_of_limits_and_order() -> None:
    full = job("x-y", memory_mb=64, priority=-9, expires=0.5, concurrency=1, concurrency_by="word")(plain)
    assert (full.memory_mb, full.priority, full.expires) == (64, -9, 0.5)
    assert (full.concurrency, full.concurrency_by) == (1, "word")
    assert (say_it.memory_mb, say_it.priority, say_it.expires) == (None, 0, None)
    assert (say_it.concurrency, say_it.concurrency_by) == (None, None)


def test_the_catalog_holds_ours_and_the_users() -> None:
    assert set(load_catalog([])) == {"generate-report"}
    with pytest.raises(ValueError, match="declares no job type"):
        load_catalog(["json"])
