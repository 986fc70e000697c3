"""Output formats: table, wide, json, yaml, name; and following changes with --watch."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

__all__ = ["FORMATS", "Column", "Kind", "as_data", "format_option", "print_items", "render_table", "watch_option"]

FORMATS = ("table", "wide", "json", "yaml", "name")
WATCH_SECONDS = 2.0
Item = TypeVar("Item", bound=Message)

format_option = click.option(
    "-o", "--output", "output", type=click.Choice(FORMATS), default="table", show_default=True, help="Output format"
)
watch_option = click.option("-w", "--watch", is_flag=True, help="Then follow changes until Ctrl-C")


@dataclass(frozen=True, slots=True)
class Column(Generic[Item]):
    """`wide`: shown with `-o wide` only. `right`: a figure, set to the right."""

    title: str
    text: Callable[[Item], str]
    wide: bool = False
    right: bool = False


@dataclass(frozen=True, slots=True)
class Kind(Generic[Item]):
    """How one kind of thing is shown. `singular` is also the prefix of `-o name`."""

    singular: str
    plural: str
    name: Callable[[Item], str]
    columns: Sequence[Column[Item]]


def as_data(message: Message) -> dict[str, Any]:
    """The message in the names of the contract."""
    return MessageToDict(message, preserving_proto_field_name=True)


def render_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[bool] = ()) -> list[str]:
    """Lines of a table in columns, two blanks apart."""
    table = [list(titles), *[list(row) for row in rows]] if titles else [list(row) for row in rows]
    widths = [max((len(row[column]) for row in table), default=0) for column in range(len(table[0]))] if table else []
    flags = [*right, *[False] * (len(widths) - len(right))]
    return [
        "  ".join(
            cell.rjust(width) if flag else cell.ljust(width)
            for cell, width, flag in zip(row, widths, flags, strict=True)
        ).rstrip()
        for row in table
    ]


def dump(data: Any, output: str) -> str:
    """`data` as JSON or YAML text."""
    if output == "json":
        return json.dumps(data, indent=2, ensure_ascii=False)
    import yaml

    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=False).rstrip()


def print_items(
    kind: Kind[Any], items: Sequence[Any], output: str, *, single: bool = False, header: bool = True
) -> None:
    """Prints `items`. `single`: one thing was asked for by name, so JSON and YAML give it bare."""
    if output in ("json", "yaml"):
        data: Any = [as_data(item) for item in items]
        data = data[0] if single and len(data) == 1 else {"kind": f"{kind.singular.title()}List", "items": data}
        click.echo(dump(data, output))
    elif output == "name":
        for item in items:
            click.echo(f"{kind.singular}/{kind.name(item)}")
    elif not items and header:
        click.echo(f"no {kind.plural}", err=True)
    else:
        for line in table_lines(kind, items, output)[0 if header else 1 :]:
            click.echo(line)


def table_lines(kind: Kind[Any], items: Sequence[Any], output: str) -> list[str]:
    """Header line and one line an item."""
    columns = [column for column in kind.columns if output == "wide" or not column.wide]
    return render_table(
        [column.title for column in columns],
        [[column.text(item) for column in columns] for item in items],
        right=[column.right for column in columns],
    )


async def follow(fetch: Callable[[], Awaitable[Sequence[Any]]], kind: Kind[Any], output: str) -> None:
    """Prints all items, and from then on each that changed, until cancelled."""
    shown: dict[str, bytes] = {}
    first = True
    while True:
        items = await fetch()
        fresh = [item for item in items if shown.get(kind.name(item)) != item.SerializeToString(deterministic=True)]
        shown = {kind.name(item): item.SerializeToString(deterministic=True) for item in items}
        if fresh or first:
            print_items(kind, fresh, output, header=first)
            sys.stdout.flush()
        first = False
        await asyncio.sleep(WATCH_SECONDS)
