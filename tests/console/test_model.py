"""The direct console as a value: where keys lead, and what never shows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from casemate.console.keys import Keys
from casemate.console.model import (
    MENU,
    NO_SHELL,
    Action,
    Console,
    Facts,
    Kind,
    Page,
    done,
    locked,
    press,
    refused,
    told,
)
from casemate.console.screen import Style, draw

SECRET = "Correct-Horse-7"
NAMES = ("up", "down", "pageup", "pagedown", "home", "end", "enter", "escape", "tab", "backspace")
ALT = ("alt-f1", "alt-f2", "alt-f11", "alt-f12")
KEYS = st.one_of(st.sampled_from([*NAMES, *ALT, "f2", "f11", "f12", "y", "r"]), st.characters())


def type_in(console: Console, *keys: str) -> tuple[Console, list[Action]]:
    """Press keys; an action that is asked for is not carried out."""
    actions = []
    for key in keys:
        console, action = press(console, key)
        actions += [action] if action else []
    return console, actions


def logged_in() -> Console:
    console, (action,) = type_in(Console(), "f2", *SECRET, "enter")
    return done(console, action)


def text_of(console: Console) -> str:
    return "\n".join(line.text for line in draw(console, 80, 25))


def row(kind: Kind | Page) -> list[str]:
    """Return the keys that lead from the menu's first row into one of its entries."""
    number = next(
        n for n, one in enumerate(MENU) if kind in (one.page, one.action and one.action.kind)
    )
    return [*["down"] * number, "enter"]


def test_nothing_but_the_plate_is_seen_without_a_login() -> None:
    for key in ("enter", "down", "escape", "x", "f11", "y"):
        assert press(Console(), key) == (Console(), None)
    console, actions = type_in(Console(), "f12")
    assert (console.page, actions) == (Page.LOGIN, [])


def test_alt_keys_of_esxi_are_known_and_lead_past_no_login() -> None:
    assert press(Console(), "alt-f2") == (Console(), None)
    for console in (Console(), logged_in()):
        shown, action = press(console, "alt-f1")
        assert (shown.page, shown.message, action) == (console.page, NO_SHELL, None)
        assert press(console, "alt-f11")[0].page is Page.PLATE
    console, actions = type_in(Console(), "alt-f12")
    assert (console.page, actions) == (Page.LOGIN, [])
    console, (action,) = type_in(console, *SECRET, "enter")
    assert done(console, action).page is Page.LOGS
    assert press(logged_in(), "alt-f12")[0].page is Page.LOGS


def test_a_login_leads_where_it_was_asked_for() -> None:
    assert logged_in().page is Page.MENU
    console, (action,) = type_in(Console(), "f12", *SECRET, "enter")
    assert action == Action(Kind.LOG_IN, ("root", SECRET))
    console = done(console, action)
    assert (console.page, console.user) == (Page.CONFIRM, "root")
    assert "Shut Down" in text_of(console)


def test_a_refused_login_forgets_the_password_and_says_why() -> None:
    console, _ = type_in(Console(), "f2", *SECRET, "enter")
    console = refused(console, "No.")
    assert [one.text for one in console.inputs] == ["root", ""]
    assert "No." in text_of(console)
    assert console.page is Page.LOGIN


def test_a_password_is_neither_drawn_nor_in_any_repr() -> None:
    console, actions = type_in(Console(), "f2", *SECRET)
    assert SECRET not in text_of(console)
    assert "*" * len(SECRET) in text_of(console)
    assert SECRET not in repr(console)
    _, (action,) = type_in(console, "enter")
    assert SECRET not in repr(action)
    assert actions == []


def test_what_others_notice_is_asked_first_and_escape_does_nothing() -> None:
    for kind in (Kind.RESTART_AGENTS, Kind.ROLL_BACK):
        console, actions = type_in(logged_in(), *row(kind))
        assert (console.page, actions) == (Page.CONFIRM, [])
        assert type_in(console, "enter", "n", "escape")[1] == []
        assert type_in(console, "y")[1] == [Action(kind)]


def test_both_ends_of_the_host_are_asked_twice() -> None:
    console, actions = type_in(logged_in(), "f12", "down", "enter")
    assert actions == []
    assert type_in(console, "f11")[1] == [Action(Kind.RESTART)]


def test_the_lockdown_in_force_is_under_the_cursor() -> None:
    console = told(logged_in(), Facts(lockdown="lockdownNormal"))
    console, _ = type_in(console, *row(Page.LOCKDOWN))
    assert type_in(console, "enter")[1] == [Action(Kind.LOCKDOWN, ("lockdownNormal",))]


def test_new_passwords_must_be_the_same() -> None:
    console, _ = type_in(logged_in(), *row(Page.PASSWORD))
    console, actions = type_in(console, "o", "enter", "n", "enter", "m", "enter")
    assert actions == []
    assert "not the same" in console.message
    _, actions = type_in(console, "o", "enter", "n", "enter", "n", "enter")
    assert actions == [Action(Kind.PASSWORD, ("o", "n"))]


def test_a_log_is_shown_from_its_end_and_scrolls() -> None:
    console, (action,) = type_in(logged_in(), *row(Page.LOGS), "enter")
    console = done(console, action, tuple(f"line {n} \x1b[2J\u202e" for n in range(100)))
    assert "line 99 ?[2J?" in text_of(console)
    console, _ = type_in(console, "home")
    assert "line 0 " in text_of(console)
    assert type_in(console, "r")[1] == [Action(Kind.READ_LOG, ("kernel",))]


def test_the_menu_comes_back_where_it_was_left() -> None:
    console, _ = type_in(logged_in(), *row(Page.ATTESTATION), "escape")
    assert MENU[console.cursor].page is Page.ATTESTATION


def test_a_session_that_ended_leads_to_the_plate() -> None:
    console = locked(logged_in())
    assert (console.page, console.user) == (Page.PLATE, "")


@given(
    st.lists(KEYS, max_size=60),
    st.integers(-5, 200),
    st.integers(-5, 80),
    st.builds(
        Facts,
        product=st.text(),
        name=st.text(),
        api=st.text(),
        network=st.lists(st.text(), max_size=30).map(tuple),
        attestation=st.lists(st.text(), max_size=30).map(tuple),
        lockdown=st.text(max_size=9),
        warnings=st.lists(st.text(), max_size=5).map(tuple),
    ),
)
def test_whatever_is_typed_every_screen_is_whole_and_acts_on_nothing(
    keys: list[str], columns: int, lines: int, facts: Facts
) -> None:
    console = told(logged_in(), facts)
    for key in keys:
        console, action = press(console, key)
        if action is not None:
            console = done(console, action, ("x",) * 3) if len(key) % 2 else refused(console, "No.")
        screen = draw(console, columns, lines)
        assert len(screen) == max(lines, 12)
        for line in screen:
            assert len(line.text) < max(columns, 40)
            assert line.text.isascii()
            assert line.text.isprintable()


def test_a_long_warning_is_shown_whole_on_a_narrow_screen() -> None:
    words = " ".join(f"word{number}" for number in range(30))
    shown = draw(told(Console(), Facts(product="x", warnings=(words,))), 60, 25)
    said = [line.text.strip() for line in shown if line.style is Style.WARNING]
    assert len(said) > 1
    assert " ".join(said) == words
    (hint,) = (line.text for line in shown if line.style is Style.HINT)
    assert len(hint) == 59


def test_keys_of_all_terminals_are_known_in_any_pieces() -> None:
    sent = b"a\x1bOQ\x1b[[B\x1b[12~\x1b2\x1b[24~\x1b0\x1b[23~\x1b[A\x1bOB\x1b[5~\r\x7f\xc3"
    known = ["a", *["f2"] * 4, "f12", "f12", "f11", "up", "down", "pageup", "enter", "backspace"]
    for size in range(1, len(sent) + 1):
        keys, found = Keys(), []
        for start in range(0, len(sent), size):
            found += keys.feed(sent[start : start + size])
        assert found == known


def test_alt_with_a_function_key_is_known_from_every_terminal() -> None:
    sent = (
        b"\x1b[1;3P\x1b\x1bOP\x1b\x1b[[A\x1b[1;3Q\x1b\x1b[12~"
        b"\x1b[23;3~\x1b\x1b[23~\x1b[24;3~\x1b\x1b[24~"
    )
    known = [*["alt-f1"] * 3, *["alt-f2"] * 2, *["alt-f11"] * 2, *["alt-f12"] * 2]
    for size in range(1, len(sent) + 1):
        keys, found = Keys(), []
        for start in range(0, len(sent), size):
            found += keys.feed(sent[start : start + size])
        assert found == known
    assert list(keys.feed(b"\x1b\x1b")) == []
    assert list(keys.idle()) == ["escape", "escape"]


def test_an_escape_alone_stands_for_itself_and_unknown_sequences_for_nothing() -> None:
    keys = Keys()
    assert list(keys.feed(b"\x1b")) == []
    assert keys.undecided
    assert list(keys.idle()) == ["escape"]
    assert list(keys.feed(b"\x1b[99;5~b\x1b[<")) == ["b"]
    assert list(keys.idle()) == ["escape"]
    assert list(keys.feed(b"\x1bx")) == ["escape", "x"]


@given(st.lists(st.binary(max_size=12), max_size=20))
def test_whatever_a_line_sends_there_is_an_end(pieces: list[bytes]) -> None:
    keys = Keys()
    for piece in pieces:
        found = [*keys.feed(piece), *keys.idle()]
        assert len(found) <= len(piece)
        assert not keys.undecided
