"""Restarting agents and ending the machine: init is asked, and only where the machine is ours."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from tests.forks import forked

from casemate.calls.console import EndHost, RestartAgents
from casemate.errors import NotSupportedError
from casemate.kernel.boot.firstwords import NAME, add_first_words
from casemate.kernel.home import CONSOLE_UID, Home
from casemate.kernel.hostends import HostEnds
from casemate.kernel.init import AGENTS_SIGNAL, RESTART_SIGNAL, Init, Service


def ask(request: object, *, own_machine: bool) -> list[int]:
    sent: list[int] = []
    ends = HostEnds(own_machine=own_machine, send=sent.append)
    asyncio.run(ends.handlers()[type(request)](request, None))
    return sent


def test_init_is_asked_by_signals() -> None:
    assert ask(RestartAgents(""), own_machine=False) == [AGENTS_SIGNAL]
    assert ask(EndHost("", restart=True), own_machine=True) == [RESTART_SIGNAL]
    assert ask(EndHost("", restart=False), own_machine=True) == [signal.SIGTERM]


def test_a_host_on_an_installed_system_does_not_end_that_system() -> None:
    with pytest.raises(NotSupportedError):
        ask(EndHost("", restart=False), own_machine=False)


def child() -> int:
    def wait() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        time.sleep(60)

    return forked(wait)


def test_agents_are_started_anew_and_others_go_on() -> None:
    """Init runs in a process of its own: signals and waiting are its business there.

    Its machine ignores Ctrl-Alt-Del, which Linux tells it as INT; so does it.
    """
    read_end, write_end = os.pipe()

    def start(name: bytes) -> int:
        number = child()
        os.write(write_end, name)
        return number

    def first() -> None:
        os.close(read_end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        init = Init(
            [
                Service("kernel", lambda: start(b"k")),
                Service("hostd", lambda: start(b"h"), agent=True),
            ]
        )
        init.run()
        os._exit(42 if init.restart else 0)

    pid = forked(first)
    os.close(write_end)
    assert sorted(os.read(read_end, 1) + os.read(read_end, 1)) == sorted(b"kh")
    os.kill(pid, signal.SIGINT)
    os.kill(pid, AGENTS_SIGNAL)
    assert os.read(read_end, 1) == b"h"
    os.kill(pid, RESTART_SIGNAL)
    _, status = os.waitpid(pid, 0)
    os.close(read_end)
    assert os.waitstatus_to_exitcode(status) == 42


def test_a_service_starts_once_what_it_waits_for_is_there(tmp_path: Path) -> None:
    place, (read_end, write_end) = tmp_path / "socket", os.pipe()

    def start(name: bytes) -> int:
        number = child()
        os.write(write_end, name)
        return number

    def first() -> None:
        console = Service("console", lambda: start(b"c"), wanted=place.exists)
        Init([console, Service("kernel", lambda: start(b"k"))]).run()

    pid = forked(first)
    assert os.read(read_end, 1) == b"k"
    place.touch()
    assert os.read(read_end, 1) == b"c"
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
    os.close(read_end)
    os.close(write_end)


@pytest.mark.host
@pytest.mark.usefixtures("root_only")
def test_first_words_are_for_the_console_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    add_first_words(home, "one")
    add_first_words(home, "two", "three")
    path = home.console / NAME
    assert path.read_text() == "one\ntwo\nthree\n"
    for place, mode in ((path, 0o600), (home.console, 0o700)):
        facts = place.stat()
        assert (facts.st_uid, facts.st_mode & 0o777) == (CONSOLE_UID, mode)
