"""The page: complete, safe, and the same for every reader."""

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "section", "article", "footer"),
    *("h1", "h2", "h3", "p", "small", "dl", "dt", "dd", "div", "ul", "li", "span", "bdi", "time", "a"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption"),
    *("svg", "g", "defs", "path", "use", "text", "clippath", "rect"),
}


class Page(HTMLParser):
    """Every element and attribute a browser would find."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words += data

    def values(self, name: str) -> list[str]:
        return [value for _, found, value in self.attributes if found == name]


def check_harmless(text: str) -> Page:
    page = Page(text)
    assert set(page.tags) <= ALLOWED
    assert not [found for found in page.attributes if found[1].startswith("on")]
    assert {name for _, name, _ in page.attributes} & {"src", "srcset", "action", "srcdoc"} == set()
    assert all(link.startswith("#") for link in page.values("href"))
    assert "url(http" not in text
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.values("href")} <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
    return page


@pytest.fixture
def orders(make: Any, sample: Callable[[str], str]) -> Any:
    return make(title="Orders of <2024>", csv=sample("orders.csv"))


def test_the_page_is_attached_first_with_its_type(orders: Any) -> None:
    assert list(orders.context.attached) == ["report.html"]
    assert orders.context.attached["report.html"][1] == "text/html; charset=utf-8"


def test_the_page_says_what_it_is(orders: Any) -> None:
    page = check_harmless(orders.page)
    for words in ("Orders of <2024>", "CSV text separated by commas", "All columns", "postcode", "Éloïse", "完了"):
        assert words in page.words
    assert page.values("data-row-count") == ["7"]
    assert page.values("data-column-count") == ["8"]
    assert page.tags["article"] == 8
    assert re.search(r'<time datetime="\d{4}-\d\d-\d\dT', orders.page)


def test_the_page_forbids_everything_but_its_own_style(orders: Any) -> None:
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in orders.page


def test_every_chart_has_a_label_and_words_for_text(orders: Any) -> None:
    page = Page(orders.page)
    kinds = Counter(page.values("data-chart"))
    assert kinds == {"histogram": 3, "bars": 4, "time": 1, "means": 3}
    assert orders.report.chart_count == page.tags["svg"] == page.tags["figure"] == kinds.total()
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == page.tags["svg"]
    assert "Histogram of price: 6 values from −4.25 to 149.5" in labels
    assert page.values("role").count("img") == page.tags["svg"]
    assert page.tags["text"] > page.tags["svg"]
    assert "font-family: 'DejaVu" not in orders.page


def test_charts_use_only_the_colours_of_the_theme(orders: Any) -> None:
    drawings = "".join(re.findall(r"<svg .*?</svg>", orders.page, re.DOTALL))
    assert not re.findall(r"#[0-9a-f]{6}\b", drawings)
    assert set(re.findall(r"var\((--[\w-]+)\)", drawings)) == {"--series", "--grid", "--ink-2"}


def test_nothing_in_a_cell_or_a_name_becomes_markup(make: Any, sample: Callable[[str], str]) -> None:
    made = make(title="</title><script>alert(0)</script>", csv=sample("hostile.csv"))
    page = check_harmless(made.page)
    assert made.report.row_count == 6
    for words in ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "{{ 7*7 }}", r"$\frac{1}{0}$"):
        assert words in page.words
    assert "\x07" not in made.page


def test_progress_rises_to_a_hundred_and_names_the_work(orders: Any) -> None:
    told = orders.context.told
    percents = [percent for percent, _ in told]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert all(len(message) <= 200 for _, message in told)
    assert [message for _, message in told if message.startswith("Profiling column 3 of 8: customer")]
    assert [message for _, message in told if message.startswith("Drawing charts, column 8 of 8")]


def test_without_data_the_report_is_about_the_jobs(make: Any) -> None:
    job = {
        "jobType": "generate-report",
        "status": "success",
        "phase": None,
        "attempt": 1,
        "errorCode": None,
        "createdAt": "2024-05-01T10:00:00Z",
        "startedAt": "2024-05-01T10:00:01Z",
        "finishedAt": None,
        "waitSeconds": 1.0,
        "runSeconds": None,
    }
    made = make([job, {**job, "createdAt": "2024-05-02T10:00:00Z", "runSeconds": 2.5}])
    kinds = {column.name: column.type for column in made.report.columns}
    assert (made.report.source, made.report.title, made.report.row_count) == ("activity", "Report", 2)
    assert (kinds["createdAt"], kinds["runSeconds"], kinds["jobType"]) == ("datetime", "number", "text")


def test_a_tenant_without_jobs_gets_a_page_too(make: Any) -> None:
    made = make()
    assert (made.report.row_count, made.report.column_count, made.report.chart_count) == (0, 10, 0)
    assert "There are no rows yet." in check_harmless(made.page).words


def test_the_same_data_makes_the_same_page(make: Any, sample: Callable[[str], str]) -> None:
    pages = [make(csv=sample("levels.csv")).page for _ in range(2)]
    first, second = (re.sub(r"<time .*?</time>", "", page) for page in pages)
    assert first == second


def test_the_result_is_camel_case(orders: Any) -> None:
    result = orders.report.model_dump(mode="json")
    assert set(result) == {"title", "source", "rowCount", "columnCount", "chartCount", "columns"}
    assert result["columns"][1] == {
        "name": "placed",
        "type": "date",
        "missing": 1,
        "distinct": 5,
        "min": "2024-01-03",
        "max": "2024-12-31",
        "mean": None,
        "median": None,
    }
