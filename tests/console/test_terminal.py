"""The direct console on a real terminal pair, before a kernel that only notes what it is asked."""

from __future__ import annotations

import codecs
import os
import pty
import re
import select
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from casemate.calls.admin import ChangePassword, LogReply, ReadLog, SetLockdown
from casemate.calls.console import (
    ConsoleLogin,
    EndHost,
    NetworkReply,
    ReadNetwork,
    RestartAgents,
    SetNetwork,
)
from casemate.calls.messages import (
    Empty,
    Identity,
    IdentityReply,
    Logout,
    SessionReply,
    Snapshot,
    SnapshotReply,
    Status,
    StatusReply,
)
from casemate.calls.software import BootRollback
from casemate.console.app import App
from casemate.console.client import GONE
from casemate.console.model import Action, Kind
from casemate.console.terminal import Terminal
from casemate.errors import HostError, LoginError, NotAuthenticatedError
from casemate.testing.fakefacts import HARDWARE, HOST

PASSWORD = "Correct-Horse-7"
_MOVE = re.compile(r"\x1b\[(\d+);1H(.*?)\x1b\[K", re.DOTALL)


class FakeKernel:
    def __init__(self) -> None:
        self.asked: list[object] = []
        self.ended = False

    def ask(self, request, _reply):
        match request:
            case Status():
                return StatusReply(
                    "running", "/h", "https://h/sdk", "1.0", "bootbank", 0, "ok", (), ()
                )
            case Snapshot():
                return SnapshotReply((HOST, HARDWARE))
            case Identity():
                return IdentityReply(b"", b"ek", b"ak", "IBM", "1", "swtpm")
            case ConsoleLogin(password=password) if password != PASSWORD:
                raise LoginError("Wrong.")
            case ReadNetwork():
                return NetworkReply("esx1", "192.0.2.2", "255.255.255.0", "192.0.2.1")
            case ConsoleLogin():
                return SessionReply("handle", "key", "root", "Root", (), 0)
        self.asked.append(request)
        if self.ended:
            raise NotAuthenticatedError("The session is not authenticated.")
        return LogReply(1, 2, ("one", "two")) if isinstance(request, ReadLog) else Empty()


class Screen:
    """The other end of the terminal: what stands on each line, and the keyboard."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.near, self.far = pty.openpty()
        self.before = termios.tcgetattr(self.far)
        terminal = Terminal(App(kernel, b"certificate"), self.far, self.far, quits=True)
        self.thread = threading.Thread(target=terminal.run)
        self.thread.start()
        self.rows: dict[int, str] = {}
        self.raw = ""
        # A read may end amid a character.
        self.decode = codecs.getincrementaldecoder("utf-8")().decode

    def text(self) -> str:
        return "\n".join(self.rows[number] for number in sorted(self.rows))

    def see(self, words: str) -> str:
        """Return the screen once it shows the words."""
        deadline = time.monotonic() + 100
        while words not in self.text():
            assert time.monotonic() < deadline, self.text()
            if select.select([self.near], [], [], 0.1)[0]:
                self.raw += self.decode(os.read(self.near, 1 << 16))
            for match in _MOVE.finditer(self.raw):
                self.rows[int(match[1])] = re.sub(r"\x1b\[[0-9;]*m", "", match[2])
            self.raw = (
                self.raw[self.raw.rfind("\x1b[K") + 3 :] if "\x1b[K" in self.raw else self.raw
            )
        return self.text()

    def type(self, keys: str) -> None:
        os.write(self.near, keys.encode())

    def close(self) -> None:
        self.type("\x03")
        while self.thread.is_alive():
            if select.select([self.near], [], [], 0.05)[0]:
                os.read(self.near, 1 << 16)
        os.close(self.near)
        os.close(self.far)


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def screen(kernel: FakeKernel) -> Iterator[Screen]:
    shown = Screen(kernel)
    yield shown
    shown.close()


def log_in(screen: Screen) -> None:
    screen.see("<F2> Customize System")
    screen.type("\x1bOQ")
    screen.see("Authentication Required")
    screen.type(f"{PASSWORD}\r")
    screen.see("System Customization")


def test_the_network_is_shown_and_kept_for_the_next_start(
    screen: Screen, kernel: FakeKernel
) -> None:
    log_in(screen)
    screen.type("\x1b[B\x1b[B\r")
    shown = screen.see("[ 192.0.2.1 ")
    assert "[ esx1 " in shown
    screen.type("\x7f\x7f\x7f\x7fhost2\t\x7f3\r\r\r")
    screen.see("Restart the host to use it.")
    assert kernel.asked == [
        SetNetwork("handle", "host2", "192.0.2.3", "255.255.255.0", "192.0.2.1")
    ]


def test_the_plate_tells_where_the_host_is_and_who(screen: Screen) -> None:
    shown = screen.see("Certificate of the API")
    assert "https://h/sdk" in shown
    assert "TPM ok, measured boot complete" in shown


def test_the_first_words_stand_there_until_the_first_login(
    kernel: FakeKernel, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    first.write_text("First password of root: abc\n")
    app = App(kernel, b"", first)
    assert app.facts().warnings[0] == "First password of root: abc"
    with pytest.raises(LoginError):
        app.perform(Action(Kind.LOG_IN, ("root", "guess")))
    assert first.exists()
    app.perform(Action(Kind.LOG_IN, ("root", PASSWORD)))
    assert app.facts().warnings == ()
    assert not first.exists()


def test_a_wrong_password_leads_nowhere(screen: Screen, kernel: FakeKernel) -> None:
    screen.see("<F2> Customize System")
    screen.type("\x1bOQ")
    screen.see("Authentication Required")
    screen.type("guess\r")
    screen.see("Wrong.")
    screen.type("\x1b[B\x1b[A\r")
    assert kernel.asked == []


def test_the_whole_menu_by_keyboard(screen: Screen, kernel: FakeKernel) -> None:
    log_in(screen)
    screen.type("\x1b[B\r")
    screen.see("Normal: administrators")
    screen.type("\x1b[B\r")
    screen.see("Done.")
    screen.type("\x1b[B" * 3 + "\r")
    screen.see("Restart the management agents?")
    screen.type("y")
    screen.see("are restarted")
    screen.type("\x1b[B\r")
    screen.see("> kernel")
    screen.type("\r")
    screen.see("two")
    screen.type("\x1b")
    screen.see("> kernel")
    screen.type("\x1b")
    screen.see("System Customization")
    screen.type("\x1b[B\r")
    screen.see("Boot the other bank next?")
    screen.type("y")
    screen.see("boots next")
    screen.type("\x1b[24~")
    screen.see("> Shut Down")
    screen.type("\x1b[B\r")
    screen.see("Restart the host?")
    screen.type("\x1b[23~")
    screen.see("The host ends.")
    screen.type("\x1b[H\r")
    screen.see("Old Password")
    screen.type(f"{PASSWORD}\rnew\rnew\r")
    screen.see("<F2> Customize System")
    assert kernel.asked == [
        SetLockdown("handle", "lockdownNormal"),
        RestartAgents("handle"),
        ReadLog("handle", "kernel", 1, 0),
        ReadLog("handle", "kernel", 1, 1000),
        BootRollback("handle"),
        EndHost("handle", restart=True),
        ChangePassword("root", PASSWORD, "new", "console"),
    ]


def test_a_session_that_the_kernel_ended_is_over_here_too(
    screen: Screen, kernel: FakeKernel
) -> None:
    log_in(screen)
    kernel.ended = True
    screen.type("\x1b[B\r")
    screen.see("Normal: administrators")
    screen.type("\r")
    screen.see("The session has ended.")


def test_a_kernel_that_does_not_answer_in_time_ends_the_console(kernel: FakeKernel) -> None:
    """What it answers later is never taken for the answer to something else."""
    near, far = pty.openpty()
    ask, keys = kernel.ask, [f"\x1b2{PASSWORD}\r".encode()]

    def gone(request: object, reply: object) -> object:
        if isinstance(request, Snapshot) and keys:  # the terminal is ready
            os.write(near, keys.pop())
        if isinstance(request, ConsoleLogin):
            raise HostError("the kernel does not answer", code=GONE)
        return ask(request, reply)

    kernel.ask = gone
    with pytest.raises(HostError, match="does not answer"):
        Terminal(App(kernel, b""), far, far, quits=False).run()
    os.close(near)
    os.close(far)


def test_leaving_logs_out_and_gives_the_terminal_back(kernel: FakeKernel) -> None:
    screen = Screen(kernel)
    log_in(screen)
    screen.type("\x03")
    ended = False
    while not ended:
        # What it wrote last is still there when it has ended: only then nothing more comes.
        ended = not screen.thread.is_alive()
        while select.select([screen.near], [], [], 0 if ended else 0.05)[0]:
            screen.raw += os.read(screen.near, 1 << 16).decode()
    assert screen.raw.endswith("\x1b[?25h")
    assert kernel.asked == [Logout("handle")]
    assert termios.tcgetattr(screen.far) == screen.before
    os.close(screen.near)
    os.close(screen.far)
