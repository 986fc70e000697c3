"""What a command says when it fails, and the exit code that goes with it."""

import re
from collections.abc import Sequence

import click

from berth.errors import BerthError, FieldError, InvalidInput

__all__ = ["Failed", "report", "violations"]

_DESCRIPTION = re.compile(r"""(?P<value>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"): (?P<remedy>.*)""", re.DOTALL)
_HINTS = {
    "UNAVAILABLE": "is it still running? `berth dev` starts one",
    "UNAUTHENTICATED": "give a token with --token or BERTH_TOKEN",
    "UNIMPLEMENTED": "this Berth is of another version",
}


class Failed(Exception):
    """A command could not do its work; the message says why and what to do. Exit code 1."""


def report(error: Exception) -> int:
    """Prints the error on standard error and gives the exit code. An error of our own code is raised again."""
    from berth.embedded.context import NoContext

    if isinstance(error, InvalidInput):
        _print_violations("the input was refused", error.errors)
        return 2
    if isinstance(error, (Failed, NoContext, BerthError)):
        _print(str(error))
        return 1
    import grpc

    if isinstance(error, grpc.RpcError):
        return _report_call(error)
    raise error


def violations(error: object) -> list[FieldError]:
    """Field, value and remedy of each google.rpc.BadRequest violation that a failed call carries."""
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    try:
        status = rpc_status.from_call(error)
    except ValueError:
        return []
    found = []
    for detail in status.details if status is not None else ():
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request):
            for one in bad_request.field_violations:
                match = _DESCRIPTION.fullmatch(one.description)
                value, remedy = (match["value"][1:-1], match["remedy"]) if match else ("", one.description)
                found.append(FieldError(one.field, value, remedy))
    return found


def _report_call(error: object) -> int:
    fields = violations(error)
    code = error.code().name  # type: ignore[attr-defined]
    details = error.details() or ""  # type: ignore[attr-defined]
    if fields:
        _print_violations("the request was refused", fields)
        return 2
    if code == "INVALID_ARGUMENT":
        _print(details)
        return 2
    hint = _HINTS.get(code)
    text = f"{code.lower().replace('_', ' ')}: {details}" if code in _HINTS else details or code
    _print(f"{text}: {hint}" if hint else text)
    return 1


def _print(text: str) -> None:
    click.echo(f"{click.style('error', fg='red', bold=True)}: {text}", err=True)


def _print_violations(title: str, fields: Sequence[FieldError]) -> None:
    _print(title)
    rows = [("FIELD", "VALUE", "REMEDY")]
    for one in fields:
        shown = one.value if len(one.value) <= 40 else f"{one.value[:37]}..."
        rows.append((one.field, shown or "(empty)", one.remedy))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for field, value, remedy in rows:
        click.echo(f"  {field:<{widths[0]}}  {value:<{widths[1]}}  {remedy}", err=True)
