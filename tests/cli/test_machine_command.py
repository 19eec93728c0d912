"""``casemate image run`` and ``console``: what is refused before anything is built or started."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

import pytest

from casemate.cli import image as command
from casemate.cli import machine
from casemate.errors import ArgumentError, BusyError, HostError
from casemate.kernel.sys.locks import exclusive


@pytest.fixture(autouse=True)
def _nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every program is there, and nothing may be built or started."""
    monkeypatch.setattr(machine.tools, "find", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(machine.Packages, "version", lambda _self, _name: "1")
    for name in ("_prepare", "_install", "_try"):
        monkeypatch.setattr(machine, name, lambda *_a, **_k: pytest.fail("too late"))


def run(home: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", default=None)
    command.add_parser(parser.add_subparsers())
    options = parser.parse_args(["image", *words, "--home", str(home)])
    return int(options.func(options))


@pytest.mark.parametrize(
    ("words", "argument"),
    [
        (["--name", "../other", "--fresh"], "name"),
        (["--name", "."], "name"),
        (["--port", "70000"], "port"),
        (["--memory", "256"], "memory"),
        (["--cpus", "0"], "cpus"),
        (["--iso", "/nonexistent.iso"], "iso"),
        (["--disk", "/nonexistent.img"], "disk"),
        (["--iso", __file__, "--disk", __file__], "iso"),
    ],
)
def test_what_makes_no_machine_is_refused_before_one_is_made(
    tmp_path: Path, words: list[str], argument: str
) -> None:
    with pytest.raises(ArgumentError) as refused:
        run(tmp_path, "run", "--accel", "tcg", *words)
    assert refused.value.argument == argument
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_named_before_anything_is_built(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        with pytest.raises(HostError, match=port) as refused:
            run(tmp_path, "run", "--accel", "tcg", "--port", port)
    assert refused.value.code == "port-taken"


def test_a_machine_runs_once_and_is_not_made_anew_meanwhile(tmp_path: Path) -> None:
    place = tmp_path / "machines" / "trial"
    place.mkdir(parents=True)
    with (
        exclusive(place.with_name("trial.lock"), "it"),
        pytest.raises(BusyError, match="machine trial"),
    ):
        run(tmp_path, "run", "--accel", "tcg", "--fresh")
    assert place.is_dir()


def test_a_missing_program_is_named_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(machine.tools, "SEARCH_PATH", str(tmp_path))
    with pytest.raises(HostError, match="qemu-system-x86_64") as refused:
        run(tmp_path, "run", "--accel", "tcg")
    assert refused.value.code == "tool-missing"


def test_the_console_of_a_machine_that_is_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="is not on") as refused:
        run(tmp_path, "console", "--name", "none")
    assert refused.value.code == "machine-off"
