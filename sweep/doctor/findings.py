"""The findings of `sweep.doctor`, and the table that shows them, one line each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any, Literal, TextIO, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

T = TypeVar("T")
State = Literal["ok", "note", "problem"]

HERE = "here"
"""Place of findings for the machine that runs the doctor."""
_STYLE = {"ok": "green", "note": "yellow", "problem": "bold red"}
_PIPED_WIDTH = 4000
"""Width of a table outside a terminal, so that lines are never broken."""


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    what: str
    """Subject: ``gpu``, ``data``, ..."""
    state: State
    """``problem``: it stops or spoils a sweep; ``note``: worth knowing; ``ok``."""
    detail: str
    advice: str = ""
    """What to do; every problem has one."""
    where: str = HERE
    """The machine or machines."""


def ok(what: str, detail: str, where: str = HERE) -> Finding:
    """Return a finding for something that is in order."""
    return Finding(what, "ok", detail, "", where)


def note(what: str, detail: str, advice: str = "", where: str = HERE) -> Finding:
    """Return a finding that does not stop a sweep."""
    return Finding(what, "note", detail, advice, where)


def problem(what: str, detail: str, advice: str, where: str = HERE) -> Finding:
    """Return a finding that stops or spoils a sweep."""
    return Finding(what, "problem", detail, advice, where)


def refused(what: str, error: Exception, advice: str, where: str = HERE) -> Finding:
    """Return a finding for an error; its last clause says what to do, or else `advice` does."""
    detail, _, remedy = str(error).rpartition("; ")
    return problem(what, detail or str(error), remedy if detail else advice, where)


def together(by_place: Sequence[Sequence[Finding]]) -> list[Finding]:
    """Combine equal findings of several machines into one line.

    Parameters
    ----------
    by_place : sequence of sequence of Finding
        The findings for each machine, which is named in ``where``.

    Returns
    -------
    list of Finding
        Findings in the order of subjects on the first machine that has them.

    Examples
    --------
    >>> [one.where for one in together([[ok("ray", "2.60", "a")], [ok("ray", "2.60", "b")]])]
    ['all 2 nodes']
    """
    places: dict[Finding, list[str]] = {}
    for findings in by_place:
        for one in findings:
            places.setdefault(replace(one, where=""), []).append(one.where)
    merged = []
    for one, names in places.items():
        everywhere = len(names) == len(by_place) > 1
        merged.append(
            replace(one, where=f"all {len(names)} nodes" if everywhere else ", ".join(names))
        )
    order = list(dict.fromkeys(one.what for one in merged))
    return sorted(merged, key=lambda one: order.index(one.what))


def print_table(findings: Iterable[Finding], out: TextIO) -> None:
    """Print findings: in colour on a terminal, otherwise plain and with one line each."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    shown = out.isatty()
    for column in ("", "what", "where"):
        table.add_column(column, no_wrap=True)
    table.add_column("finding", overflow="fold" if shown else "ignore", no_wrap=not shown)
    for one in findings:
        text = " ".join(f"{one.detail}; {one.advice}".split() if one.advice else one.detail.split())
        text = text.encode("utf-8", "backslashreplace").decode()  # of names that are not UTF-8
        # texts, since a path may hold [brackets] that rich would take for markup
        state = Text(one.state, style=_STYLE[one.state])
        table.add_row(state, Text(one.what), Text(one.where), Text(text))
    console = Console(file=out, highlight=False, width=None if shown else _PIPED_WIDTH)
    if shown:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        out.write(line.rstrip() + "\n")
    out.flush()


def within(seconds: float, function: Callable[[], T]) -> T | None:
    """Return the result of a function, or None if it takes longer than the given seconds.

    It then stays in a thread that does not keep the process alive, because there is no other way
    to abandon a name lookup or a folder of a dead server.

    Raises
    ------
    Exception
        Any error of the function.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    return results[0] if results else None


def short(error: Any) -> str:
    """Return an error as one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
