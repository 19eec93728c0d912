"""Machines that boot by themselves: one build for all tests, a machine of its own for each."""

from __future__ import annotations

import datetime as dt
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from casemate.cli.attest import attest_once
from casemate.cli.machine import ANSWER_SECONDS
from casemate.errors import HostError
from casemate.formats.bootoption import option_name, write_order
from casemate.formats.efivars import GLOBAL, Variable
from casemate.image.bootable import PLACE, REFERENCE, Bootable, build_bootable
from casemate.image.build import RELEASED
from casemate.image.debian import Packages
from casemate.image.disk import Layout
from casemate.image.secureboot import ovmf_variables
from casemate.image.vm import DISK, Hardware, Machine, create
from casemate.kernel.boot.firmwareboot import ATTRIBUTES
from casemate.kernel.boot.machinedisk import MachineDisk
from casemate.kernel.home import Home
from casemate.kernel.tpm import swtpm
from casemate.policy.appraise import Appraisal

SILENCE = 600.0
"""Seconds without a word: what an emulated machine on a busy one never needs."""
LAYOUT = Layout(efi=64, bank=192, datastore=64)


@dataclass
class Built:
    """A built image and what vouches for it."""

    home: Path
    bootable: Bootable

    @property
    def place(self) -> Path:
        return self.home / PLACE

    @property
    def reference(self) -> Path:
        return self.place / REFERENCE


@dataclass
class Trial:
    """A machine made from the image; ``disk`` may be attacked before ``machine.start()``."""

    built: Built
    machine: Machine

    @property
    def disk(self) -> Path:
        return self.machine.place / DISK

    def until(self, *stages: str) -> list[dict[str, object]]:
        """Start the machine where it is off, and return what it told until one of the stages."""
        if not self.machine.running():
            self.machine.start()
        told = []
        for fact in self.machine.told(SILENCE):
            told.append(fact)
            if fact["stage"] in stages:
                break
        return told

    def boot(self) -> list[dict[str, object]]:
        """Start the machine where it is off, and return what it told until ready or refused."""
        if not self.machine.running():
            self.machine.start()
        return list(self.machine.told(SILENCE))

    def console(self, words: str, seconds: float) -> str:
        """Wait until the console says something; return all that it said."""
        deadline = time.monotonic() + seconds
        while words not in (said := self.machine.console()):
            assert time.monotonic() < deadline, said
            time.sleep(0.2)
        return said

    def attest(self, reference: Path | None = None) -> Appraisal:
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                return attest_once(
                    "localhost",
                    self.machine.hardware.port,
                    reference or self.built.reference,
                    Home(self.machine.place).trust / "ek",
                    time.time(),
                    trust=self.built.home / "trust",
                )
            except HostError as error:
                if error.code != "unreachable" or time.monotonic() > deadline:
                    raise
                time.sleep(1)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    home = tmp_path_factory.mktemp("bootable") / "home"
    disk = home / PLACE / DISK
    return Built(home, build_bootable(home, disk, now=dt.datetime.now(dt.UTC), layout=LAYOUT))


@contextmanager
def new_machine(
    built: Built,
    place: Path,
    variables: Sequence[Variable] = (),
    disk: Path | None = None,
    drives: tuple[tuple[Path, str], ...] = (),
    *,
    tpm: bool = True,
) -> Iterator[Trial]:
    """Make a machine from the image, or with another disk.

    ``variables`` stand in its firmware beside the keys. Without a TPM firmware measures nothing,
    which takes it most of its time.
    """
    packages = Packages()
    known = ovmf_variables(built.home, packages, RELEASED, variables)
    create(place, disk or built.bootable.disk, known, packages)
    if tpm:
        swtpm.manufacture(Home(place))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
    hardware = Hardware(memory=1536, port=port, tpm=tpm, drives=drives)
    with Machine(place, hardware) as machine:
        yield Trial(built, machine)


def asked_for_the_other_bank(disk: Path) -> list[Variable]:
    """Return variables of a firmware that was told to start the other bank's image, once."""
    option = MachineDisk(disk, {}).options()["altbootbank"]
    return [
        Variable(name, GLOBAL, ATTRIBUTES, data)
        for name, data in ((option_name(0), option), ("BootNext", write_order((0,))))
    ]


@pytest.fixture
def run() -> Callable[..., str]:
    def command(*words: str | Path) -> str:
        return subprocess.run(
            [str(word) for word in words], check=True, capture_output=True, text=True
        ).stdout

    return command
