"""Text that strangers wrote, made safe to print."""

from __future__ import annotations


def escape(text: str) -> str:
    r"""Replace what a terminal or a page would act on by ``\x1b``, ``\u202e`` and the like.

    That is every character that Unicode does not call printable: controls, bidirectional and
    zero-width marks, line separators, surrogates, private use.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in text)


def _escaped(point: int) -> str:
    if point <= 0xFF:  # noqa: PLR2004  # two hexadecimal digits
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point <= 0xFFFF else f"\\U{point:08x}"  # noqa: PLR2004  # four
