"""What strangers named is printed as they named it, and moves no terminal."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from casemate.cli.esxcli import say
from casemate.cli.terminal import PlainConsole, styled
from casemate.errors import SignatureError


def printed(what: object) -> str:
    out = io.StringIO()
    PlainConsole(file=out, width=10_000).print(what, soft_wrap=True)
    return out.getvalue()


def test_a_name_in_brackets_is_neither_a_colour_nor_an_error() -> None:
    for name in ("[red]x[/] [/]", "[datastore1] a/a.vmx", ":smile:", "[/]"):
        table = Table(box=None)
        table.add_column("name")
        table.add_row(name)
        assert name in printed(table)
        assert printed(name) == f"{name}\n"
        assert name in printed(styled(("error", "bold red"), f": {name}"))


@given(st.text(min_size=1, max_size=30))
def test_whatever_a_string_holds_no_control_character_is_printed(text: str) -> None:
    table = Table(box=None)
    table.add_column("a")
    table.add_row(text)
    table.add_row(Text(text, style="bold"))
    out = printed(table) + printed(text) + printed(Text(text)) + printed(styled((text, "red"), "x"))
    assert all(one.isprintable() for one in out.replace("\n", ""))


def test_a_signers_name_moves_no_terminal_when_esxcli_refuses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "CN=\x1b]0;owned\x07\x9b2J"
    say(SignatureError(f"no trusted signer: {name}", component=name, remedy=f"Ask {name}."))
    told = capsys.readouterr().err
    assert "owned" in told
    assert all(one.isprintable() for one in told.replace("\n", ""))
