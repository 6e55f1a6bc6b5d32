"""How operators are shown things: tables on a terminal, plain columns in a pipe, JSON for programs."""

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

console = Console(highlight=False)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """One line a row; in a pipe tab-separated and without a heading, so that `cut` and `grep` do."""
    if not console.is_terminal:
        for row in rows:
            console.file.write("\t".join(map(plain, row)) + "\n")
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    console.print(table)


def show_json(value: Any) -> None:
    """One JSON document; every unusual character is spelled as an escape."""
    console.file.write(json.dumps(value, indent=2) + "\n")


def say(sentence: str) -> None:
    """A line for a person."""
    console.file.write(plain(sentence) + "\n")


def plain(value: object) -> str:
    """Text that cannot steer the terminal it is shown on: callers choose tenants' words, not operators."""
    if value is None:
        return "-"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "".join(letter if letter.isprintable() else "�" for letter in text)
