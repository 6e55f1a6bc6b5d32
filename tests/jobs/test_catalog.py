"""The decorator refuses at import time what could not work later."""

import asyncio

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


def test_the_catalog_holds_ours_and_the_users() -> None:
    assert set(load_catalog([])) == {"generate-report"}
    with pytest.raises(ValueError, match="declares no job type"):
        load_catalog(["json"])
