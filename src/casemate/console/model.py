"""The direct console as a value: what is shown, and what a key leads to. Nothing here does I/O.

Like ESXi's: a plate with name and addresses that anybody may see; behind a login a menu. A key
turns one ``Console`` into the next, and may ask for an ``Action``; what came of it is told back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Final

LOGS: Final = ("kernel", "hostd", "init", "audit")
MODES: Final = ("lockdownDisabled", "lockdownNormal", "lockdownStrict")
MODE_NAMES: Final = {
    "lockdownDisabled": "Disabled",
    "lockdownNormal": "Normal: administrators work here, nobody over the network",
    "lockdownStrict": "Strict: only excepted users, and not here",
}
NETWORK: Final = ("Host Name", "IPv4 Address", "Subnet Mask", "Default Gateway")
"""What can be typed on the page of the network; an empty address asks DHCP."""
NO_SHELL: Final = "This host has no shell: its API and this console are all there is."
INPUT_LIMIT: Final = 128
"""Characters of a name or password."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the plate and the pages show of the host; lines are ready for people."""

    product: str = ""
    hardware: tuple[str, ...] = ()
    name: str = ""
    api: str = ""
    network: tuple[str, ...] = ()
    attestation: tuple[str, ...] = ()
    lockdown: str = MODES[0]
    banks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Page(Enum):
    """Where the console is."""

    PLATE = auto()
    LOGIN = auto()
    MENU = auto()
    NETWORK = auto()
    ATTESTATION = auto()
    LOCKDOWN = auto()
    LOGS = auto()
    LOG = auto()
    PASSWORD = auto()
    CONFIRM = auto()


class Kind(Enum):
    """What can be asked for."""

    LOG_IN = auto()
    LOG_OUT = auto()
    LOCKDOWN = auto()
    RESTART_AGENTS = auto()
    ROLL_BACK = auto()
    PASSWORD = auto()
    READ_LOG = auto()
    READ_NETWORK = auto()
    NETWORK = auto()
    SHUT_DOWN = auto()
    RESTART = auto()


@dataclass(frozen=True, slots=True)
class Action:
    """Something to be done outside of the console; ``words`` are its arguments."""

    kind: Kind
    words: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Input:
    """A line that is typed; a secret one is shown as stars."""

    label: str
    text: str = field(default="", repr=False)
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Console:
    """The whole state.

    ``chosen`` is the menu's last row, ``goal`` where a login leads to; ``pending`` waits for
    confirmation.
    """

    facts: Facts = Facts()
    page: Page = Page.PLATE
    user: str = ""
    cursor: int = 0
    chosen: int = 0
    inputs: tuple[Input, ...] = ()
    lines: tuple[str, ...] = ()
    log: str = ""
    message: str = ""
    pending: Action | None = None
    goal: Page | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the menu: its title, and the page or the action behind it."""

    title: str
    page: Page | None = None
    action: Action | None = None


MENU: Final = (
    Entry("Configure Password", Page.PASSWORD),
    Entry("Configure Lockdown Mode", Page.LOCKDOWN),
    Entry("Configure Management Network", action=Action(Kind.READ_NETWORK)),
    Entry("Attestation", Page.ATTESTATION),
    Entry("Restart Management Agents", action=Action(Kind.RESTART_AGENTS)),
    Entry("View System Logs", Page.LOGS),
    Entry("Roll Back to the Other Boot Bank", action=Action(Kind.ROLL_BACK)),
    Entry("Log Out", action=Action(Kind.LOG_OUT)),
)
END: Final = (
    Entry("Shut Down", action=Action(Kind.SHUT_DOWN)),
    Entry("Restart", action=Action(Kind.RESTART)),
)
QUESTIONS: Final = {
    Kind.RESTART_AGENTS: "Restart the management agents? Clients are cut off for a moment.",
    Kind.ROLL_BACK: "Boot the other bank next? The running image will not boot any more.",
    Kind.SHUT_DOWN: "Shut down the host? Virtual machines are shut down first.",
    Kind.RESTART: "Restart the host? Virtual machines are shut down first.",
}
_LOGIN: Final = (Input("Login Name", "root"), Input("Password", secret=True))
_PASSWORD: Final = (
    Input("Old Password", secret=True),
    Input("New Password", secret=True),
    Input("Confirm Password", secret=True),
)


def press(console: Console, key: str) -> tuple[Console, Action | None]:
    """Return what a key leads to: a printable character, or the name of a key in lower case."""
    console = replace(console, message="")
    match key:
        case "alt-f1":  # ESXi's shell; Alt-F2 is this console, Alt-F11 its plate, Alt-F12 the log
            return replace(console, message=NO_SHELL), None
        case "alt-f11":
            return _to(console, Page.PLATE), None
        case "alt-f12":
            return _behind_login(console, Page.LOGS), None
        case _:
            return _PAGES[console.page](console, key)


def told(console: Console, facts: Facts) -> Console:
    """Return the console with newer facts."""
    return replace(console, facts=facts)


def done(console: Console, action: Action, outcome: tuple[str, ...] = ()) -> Console:
    """Return the console after an action succeeded; ``outcome`` are lines to show."""
    match action.kind:
        case Kind.LOG_IN:
            page = console.goal or Page.MENU
            return replace(_to(console, page), user=action.words[0], goal=None)
        case Kind.READ_LOG:
            last = max(len(outcome) - 1, 0)
            return replace(
                console, page=Page.LOG, lines=outcome, log=action.words[0], cursor=last, inputs=()
            )
        case Kind.READ_NETWORK:
            inputs = tuple(map(Input, NETWORK, outcome))
            return replace(_to(console, Page.NETWORK), inputs=inputs)
        case Kind.LOG_OUT:
            return Console(console.facts)
        case _:
            return replace(_to(console, Page.MENU), message=" ".join(outcome) or "Done.")


def refused(console: Console, reason: str) -> Console:
    """Return the console after an action was refused: secrets are typed again."""
    inputs = tuple(replace(one, text="") if one.secret else one for one in console.inputs)
    first = next((n for n, one in enumerate(inputs) if one.secret), 0)
    if console.page is Page.CONFIRM:
        console = _to(console, Page.MENU)
    return replace(
        console, inputs=inputs, cursor=first if inputs else console.cursor, message=reason
    )


def locked(console: Console) -> Console:
    """Return the console when its session has ended: the plate."""
    return replace(Console(console.facts), message="The session has ended.")


def _to(console: Console, page: Page) -> Console:
    inputs = {Page.LOGIN: _LOGIN, Page.PASSWORD: _PASSWORD}.get(page, ())
    cursor = 0
    if page is Page.LOGIN:
        cursor = 1
    elif page is Page.MENU:
        cursor = console.chosen
    elif page is Page.LOCKDOWN and console.facts.lockdown in MODES:
        cursor = MODES.index(console.facts.lockdown)
    return replace(console, page=page, cursor=cursor, inputs=inputs, lines=(), pending=None)


def _plate(console: Console, key: str) -> tuple[Console, Action | None]:
    if key not in {"f2", "f12"}:
        return console, None
    return _behind_login(console, Page.MENU if key == "f2" else Page.CONFIRM), None


def _behind_login(console: Console, page: Page) -> Console:
    """Return the console with a page that only somebody who is logged in may see."""
    if console.user:
        return _to(console, page)
    return replace(_to(console, Page.LOGIN), goal=page)


def _shown(console: Console, key: str) -> tuple[Console, Action | None]:
    return (_to(console, Page.MENU) if key in {"escape", "enter"} else console), None


def _menu(console: Console, key: str) -> tuple[Console, Action | None]:
    if key == "escape":
        return _to(console, Page.PLATE), None
    if key == "f12":
        return _to(console, Page.CONFIRM), None
    if key != "enter":
        return _moved(console, key, len(MENU)), None
    entry = MENU[console.cursor]
    console = replace(console, chosen=console.cursor)
    if entry.page is not None:
        return _to(console, entry.page), None
    if entry.action is not None and entry.action.kind in QUESTIONS:
        return replace(_to(console, Page.CONFIRM), pending=entry.action), None
    return console, entry.action


def _list(console: Console, key: str) -> tuple[Console, Action | None]:
    rows = MODES if console.page is Page.LOCKDOWN else LOGS
    if key == "escape":
        return _to(console, Page.MENU), None
    if key != "enter":
        return _moved(console, key, len(rows)), None
    kind = Kind.LOCKDOWN if console.page is Page.LOCKDOWN else Kind.READ_LOG
    return console, Action(kind, (rows[console.cursor],))


def _confirm(console: Console, key: str) -> tuple[Console, Action | None]:
    """Ask before something that others notice; without a pending action, which end of the host."""
    if key == "escape":
        return _to(console, Page.MENU), None
    if console.pending is None:
        if key == "enter":
            return replace(console, pending=END[console.cursor].action), None
        return _moved(console, key, len(END)), None
    return console, console.pending if key in {"f11", "y", "Y"} else None


def _log(console: Console, key: str) -> tuple[Console, Action | None]:
    if key in {"escape", "q", "Q"}:
        return _to(console, Page.LOGS), None
    if key in {"r", "R"}:
        return console, Action(Kind.READ_LOG, (console.log,))
    return _moved(console, key, len(console.lines)), None


def _form(console: Console, key: str) -> tuple[Console, Action | None]:
    inputs, cursor = console.inputs, console.cursor
    current = inputs[cursor]
    match key:
        case "escape":
            return _to(console, Page.MENU if console.user else Page.PLATE), None
        case "enter" if cursor == len(inputs) - 1:
            return _submit(console)
        case "enter" | "tab" | "down":
            return replace(console, cursor=(cursor + 1) % len(inputs)), None
        case "up":
            return replace(console, cursor=(cursor - 1) % len(inputs)), None
        case "backspace":
            text = current.text[:-1]
        case _ if len(key) == 1 and key.isprintable() and len(current.text) < INPUT_LIMIT:
            text = current.text + key
        case _:
            return console, None
    changed = (*inputs[:cursor], replace(current, text=text), *inputs[cursor + 1 :])
    return replace(console, inputs=changed), None


def _submit(console: Console) -> tuple[Console, Action | None]:
    words = tuple(one.text for one in console.inputs)
    if console.page is Page.LOGIN:
        return console, Action(Kind.LOG_IN, words)
    if console.page is Page.NETWORK:
        return console, Action(Kind.NETWORK, words)
    old, new, again = words
    if new != again:
        return refused(console, "The new passwords are not the same."), None
    return console, Action(Kind.PASSWORD, (old, new))


def _moved(console: Console, key: str, rows: int) -> Console:
    last = max(rows - 1, 0)
    steps = {"up": -1, "down": 1, "pageup": -10, "pagedown": 10, "home": -rows, "end": rows}
    return replace(console, cursor=min(max(console.cursor + steps.get(key, 0), 0), last))


_PAGES: Final[dict[Page, Callable[[Console, str], tuple[Console, Action | None]]]] = {
    Page.PLATE: _plate,
    Page.LOGIN: _form,
    Page.PASSWORD: _form,
    Page.MENU: _menu,
    Page.LOCKDOWN: _list,
    Page.LOGS: _list,
    Page.LOG: _log,
    Page.CONFIRM: _confirm,
    Page.NETWORK: _form,
    Page.ATTESTATION: _shown,
}
