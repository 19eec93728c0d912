"""Machines that boot by themselves: one build for all tests, a machine of its own for each."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import socket
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pytest
from tests.ports import free_port

from casemate.cli.attest import attest_once
from casemate.cli.machine import ANSWER_SECONDS
from casemate.errors import HostError
from casemate.formats.bootcfg import BootState, parse_bootcfg, write_bootcfg
from casemate.formats.bootoption import option_name, write_order
from casemate.formats.efivars import GLOBAL, Variable
from casemate.formats.pe import add_sections
from casemate.image.bootable import PLACE, REFERENCE, Bootable, build_bootable
from casemate.image.build import RELEASED, make_payload, make_vib
from casemate.image.cpio import Entry, write_cpio
from casemate.image.debian import Packages
from casemate.image.disk import BOOT_PATH, Layout, replace_files
from casemate.image.files import Recipe
from casemate.image.initrd import IDENTITY_FILE, FirstRoot
from casemate.image.linux import INDEX_PLACE, Kernel
from casemate.image.pki import load_boot_signer, load_signer
from casemate.image.secureboot import OVMF_VARS, ovmf_variables
from casemate.image.tree import File, by_path
from casemate.image.uki import STUB, BootImage, boot_recipe, make_boot_image
from casemate.image.updated import write_updated
from casemate.image.vm import DISK, Hardware, Machine, create
from casemate.kernel.boot.firmwareboot import ATTRIBUTES
from casemate.kernel.boot.machinedisk import MachineDisk
from casemate.kernel.home import Home
from casemate.kernel.tpm import swtpm
from casemate.policy.appraise import Appraisal
from casemate.policy.banks import mark_tried
from casemate.policy.levels import Level

MODULE_SIGNED = b"~Module signature appended~\n"
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


class SerialLine:
    """The machine's serial line, as a terminal has it: read all the time, or QEMU holds it back."""

    def __init__(self, machine: Machine) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._reader = threading.Thread(target=self._drain)
        try:
            self._socket.connect(str(machine.line))
            self._reader.start()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # the machine may be off
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()

    def type(self, keys: str) -> None:
        """Press keys; what the machine says to them is in its log."""
        self._socket.sendall(keys.encode())

    def _drain(self) -> None:
        with suppress(OSError):
            while self._socket.recv(1 << 16):
                pass


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
        for fact in self.machine.told():
            told.append(fact)
            if fact["stage"] in stages:
                break
        return told

    def boot(self) -> list[dict[str, object]]:
        """Start the machine where it is off, and return what it told until ready or refused."""
        if not self.machine.running():
            self.machine.start()
        return list(self.machine.told())

    def console(self, words: str, seconds: float, after: int = 0) -> str:
        """Wait until the console says something after so many characters; return all it said."""
        deadline = time.monotonic() + seconds
        while words not in (said := self.machine.console())[after:]:
            assert time.monotonic() < deadline, said
            assert self.machine.running(), said
            time.sleep(0.2)
        return said

    def attest(self, reference: Path | None = None) -> Appraisal:
        deadline = time.monotonic() + 5 * ANSWER_SECONDS
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
    hardware = Hardware(memory=1536, port=free_port(), tpm=tpm, drives=drives)
    with Machine(place, hardware) as machine:
        yield Trial(built, machine)


def asked_for_the_other_bank(disk: Path) -> list[Variable]:
    """Return variables of a firmware that was told to start the other bank's image, once."""
    option = MachineDisk(disk, {}).options()["altbootbank"]
    return [
        Variable(name, GLOBAL, ATTRIBUTES, data)
        for name, data in ((option_name(0), option), ("BootNext", write_order((0,))))
    ]


@contextmanager
def again(trial: Trial, place: Path) -> Iterator[Trial]:
    """Make a copy of a machine that is off: its disk, its TPM, its firmware's variables."""
    shutil.copytree(trial.machine.place, place, ignore=shutil.ignore_patterns("*.sock", "*.log"))
    with Machine(place, Hardware(memory=1536, port=free_port())) as machine:
        yield Trial(trial.built, machine)


def stage(told: list[dict[str, object]]) -> dict[str, Any]:
    """Return what was told last."""
    return dict(told[-1])


def named(told: list[dict[str, object]], name: str) -> dict[str, object]:
    """Return what was told of a stage."""
    return next(fact for fact in told if fact["stage"] == name)


def changed_image(boot: BootImage, **parts: bytes) -> bytes:
    """Make a boot image again with other parts, unsigned."""
    sections = boot.sections | {f".{name}": data for name, data in parts.items()}
    return add_sections(Path("/", STUB).read_bytes(), sections)


def replace_boot_image(trial: Trial, image: bytes) -> None:
    """Put another boot image where firmware finds the first one."""
    copy = trial.machine.place / "changed.efi"
    copy.write_bytes(image)
    replace_files(trial.disk, "EFI", {BOOT_PATH: copy})


@dataclass(frozen=True)
class Newer:
    """A newer image: its VIBs that the older one does not have, a bank with all, its boot image."""

    vibs: tuple[Path, ...]
    bank: Path
    boot: BootImage


def newer_image(built: Built, place: Path) -> Newer:
    """Make a boot image with another first root, and a driver that Linux must refuse.

    Both are VIBs whose signatures are good. The bank is as an update leaves it, tried once.
    """
    sections, identity = built.bootable.boot.sections, "0123456789abcdef"
    name = write_cpio([Entry(IDENTITY_FILE, stat.S_IFREG | 0o444, f"{identity}\n".encode())])
    before = sections[".initrd"]
    packages = Packages()
    kernel = Kernel(packages)
    first = FirstRoot(before + bytes(-len(before) % 4) + name, identity)
    boot = make_boot_image(packages, kernel, first, "9.9", load_boot_signer(built.home))
    signer = load_signer(built.home, Level.ACCEPTED)
    vibs = tuple(
        make_vib(recipe, make_payload(recipe, place, ""), signer, place, RELEASED).path
        for recipe in (boot_recipe(boot, "9.9-1", identity), unsigned_driver(kernel))
    )
    bank = place / "bank"
    bank.mkdir()
    write_updated(built.bootable.image.bank, vibs, bank)
    config = parse_bootcfg((bank / "boot.cfg").read_bytes())
    tried = mark_tried(replace(config, updated=7, bootstate=BootState.UPGRADING))
    (bank / "boot.cfg").write_bytes(write_bootcfg(tried))
    return Newer(vibs, bank, boot)


def unsigned_driver(kernel: Kernel) -> Recipe:
    """Return a driver of every PCI device, whose module has lost Linux's own signature."""
    module = kernel.module("dummy")
    assert module is not None
    assert module.data.endswith(MODULE_SIGNED)
    body = module.data[: -len(MODULE_SIGNED)]
    bare = replace(module, data=body[: -12 - int.from_bytes(body[-4:], "big")])
    facts = {"dummy": {"file": f"/{module.path}", "depends": [], "aliases": ["pci:*"]}}
    nodes = (
        File(bare.path, bare.data),
        File(f"{INDEX_PLACE}/unsigned.json", json.dumps(facts).encode()),
    )
    summary = "A module that is not signed"
    return Recipe("unsigned", "unsigned.v00", "1.0-1", summary, summary, "accepted", by_path(nodes))


def put(trial: Trial, bank: Path) -> None:
    """Write a bank into the machine's other bank, behind its back."""
    replace_files(trial.disk, "altbootbank", {path.name: path for path in sorted(bank.iterdir())})


def without_secure_boot(trial: Trial) -> None:
    """Have a machine forget all Secure Boot keys."""
    (trial.machine.place / "vars.fd").write_bytes(Path("/", OVMF_VARS).read_bytes())
