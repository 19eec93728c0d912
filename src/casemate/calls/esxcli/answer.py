"""What a command of esxcli answers, before it is printed or put into XML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Value = str | int | bool | tuple[str, ...]
Row = Mapping[str, Value]
"""Labels (ESXi's) and values, in order."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command answers.

    ``kind``: ``table``, ``simple`` (a block a row, under ``header``) or ``text`` (one value).
    ``headers`` are one a row where blocks have their own. ``structure`` names a row in XML.
    """

    rows: Sequence[Row]
    kind: str = "simple"
    headers: Sequence[str] = ()
    structure: str = "Result"
    text: str = ""
    status: int = 0
    columns: Sequence[str] = field(default=())


def key(label: str) -> str:
    """Return a label as it names a field in formats for machines."""
    return label.replace(" ", "").replace("(", "").replace(")", "")
