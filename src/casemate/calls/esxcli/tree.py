"""The tree of esxcli's namespaces and commands.

A command is a generator: it yields requests of the closed list, is sent their replies, and returns
its answer. Who drives it decides how the kernel is reached and as whom: the command line as root,
the API as the session that asks. Files of the command line's machine are its own affair: their
options are named in ``FILES``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from casemate.calls.esxcli.answer import Answer
from casemate.errors import CasemateError, FormatError

R = TypeVar("R")
Group = argparse._SubParsersAction  # noqa: SLF001 (argparse gives the class no public name)
Run = Generator[object, object, Answer]
Command = Callable[[argparse.Namespace], Run]

SECONDS = 60.0
"""For one answer; changes of software take as long as writing a bank does."""

FILES = ("viburl", "depot")
"""Options that name files: datastore paths, or files of the machine where esxcli is typed."""


def ask(request: object, kind: type[R]) -> Generator[object, object, R]:
    """Ask the kernel for a reply of this kind. Raises what the driver raises, FormatError."""
    reply = yield request
    if not isinstance(reply, kind):
        raise FormatError(f"a {type(request).__name__} is not answered with a {kind.__name__}")
    return reply


class Running:
    """A command on its way: ``request`` is what it asks now, until ``answer`` is there."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.request: object = None
        self.answer: Answer | None = None
        self.reply(None)

    @property
    def reply_kind(self) -> type:
        """The type of the reply to ``request``."""
        kind = vars(type(self.request)).get("reply")
        if not isinstance(kind, type):
            raise FormatError(f"{type(self.request).__name__} is no request")
        return kind

    def reply(self, reply: object) -> None:
        """Go on with the reply. Raises CasemateError when the command fails."""
        self._step(lambda: self._run.send(reply))

    def fail(self, error: CasemateError) -> None:
        """Go on without a reply: the command may know what to do."""
        self._step(lambda: self._run.throw(error))

    def _step(self, step: Callable[[], object]) -> None:
        try:
            self.request = step()
        except StopIteration as end:
            if not isinstance(end.value, Answer):
                raise FormatError("a command ends with an answer") from None
            self.answer = end.value


def namespace(
    parent: Group[argparse.ArgumentParser], name: str, what: str
) -> Group[argparse.ArgumentParser]:
    """Add a namespace and return where its commands go."""
    parser = parent.add_parser(name, help=what, description=what)
    return parser.add_subparsers(metavar="COMMAND", required=True)


def command(
    parent: Group[argparse.ArgumentParser],
    name: str,
    what: str,
    run: Command,
    *,
    seconds: float = SECONDS,
    table: tuple[str, Sequence[str]] | None = None,
) -> argparse.ArgumentParser:
    """Add a command and return its parser for options.

    ``table``: structure and columns of an answer that clients of the API shall show as a table.
    """
    parser = parent.add_parser(name, help=what, description=what)
    hints = {"formatter": "simple"}
    if table is not None:
        structure, columns = table
        hints = {"formatter": "table", f"fields:{structure}": ",".join(columns)}
    parser.set_defaults(run=run, seconds=seconds, hints=hints)
    return parser


def children(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the namespaces and commands below a parser."""
    for action in parser._actions:  # noqa: SLF001  (argparse shows its tree in no other way)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  (as above)
            return dict(action.choices)
    return {}
