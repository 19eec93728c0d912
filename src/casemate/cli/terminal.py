"""What commands print: text is text, whatever it says; looks are given beside it, never in it.

Names of VMs, pools and files come from strangers: ``[red]`` and ``:smile:`` in them stay as they
are, and what a terminal would act on is shown by its number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from casemate.formats.text import escape


class PlainConsole(Console):
    """A console that takes no text for markup, and shows what is not printable."""

    def __init__(
        self,
        *,
        stderr: bool = False,
        quiet: bool = False,
        width: int | None = None,
        file: IO[str] | None = None,
    ) -> None:
        super().__init__(
            stderr=stderr,
            quiet=quiet,
            width=width,
            file=file,
            highlight=False,
            markup=False,
            emoji=False,
        )

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401  # Console's, as they are
        """Return a string as it is shown."""
        return super().render_str(escape_lines(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Return what is shown; a ``Text`` that holds what is not printable loses its looks."""
        if isinstance(renderable, Text) and (safe := escape_lines(renderable.plain)) != (
            renderable.plain
        ):
            renderable = Text(
                safe, no_wrap=renderable.no_wrap, overflow=renderable.overflow, end=renderable.end
            )
        return super().render(renderable, options)


def escape_lines(text: str) -> str:
    """Return text of several lines as it is shown."""
    return "\n".join(map(escape, text.split("\n")))


def styled(*parts: str | tuple[str, str]) -> Text:
    """Return words, some of them with a style."""
    return Text.assemble(*parts)
