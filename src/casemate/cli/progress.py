"""A progress bar on the terminal, silent where the output is read by a program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from casemate.cli.terminal import PlainConsole


@contextmanager
def steps(title: str, *, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar while the block runs; yields what reports (what, done, of how many)."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}", markup=False),
    )
    console = PlainConsole(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar:
        task = bar.add_task(title, total=None, what="")

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, what=what)

        yield report


@contextmanager
def percent(title: str) -> Iterator[Callable[[int], None]]:
    """Show a bar once something is told; yields what is told the percent done."""
    console = PlainConsole(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    quiet = not console.is_terminal
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=quiet
    ) as bar:
        task = bar.add_task(title, total=100, visible=False)

        def report(done: int) -> None:
            bar.update(task, completed=done, visible=done > 0)

        yield report
