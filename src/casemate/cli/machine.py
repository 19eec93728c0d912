"""``casemate image disk``, ``run`` and ``console``: a machine that boots by itself, and tried."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import shutil
import signal
import socket
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from casemate.cli.attest import attest_once
from casemate.cli.machineboot import Boot, follow, follow_installer
from casemate.cli.progress import steps
from casemate.cli.releasedate import released
from casemate.cli.serial import attach_line
from casemate.cli.terminal import PlainConsole, styled
from casemate.cli.trust import add_common
from casemate.errors import ArgumentError, HostError
from casemate.image import tools
from casemate.image.bootable import PLACE, REFERENCE, build_bootable
from casemate.image.build import RELEASED
from casemate.image.debian import Packages
from casemate.image.disk import Layout
from casemate.image.secureboot import ovmf_variables, write_enrolment
from casemate.image.vm import DISK, MEMORY, Hardware, Machine, create
from casemate.kernel.boot.running import alone
from casemate.kernel.cells.probe import probe_accelerator
from casemate.kernel.home import Home, find_home
from casemate.kernel.tpm import swtpm
from casemate.policy.appraise import Appraisal, Verdict

ANSWER_SECONDS = 60.0
"""After Boot Complete, until the API of an emulated machine on a busy one must answer."""
EMPTY_SIZE = 8 << 30
"""Bytes of the disk of a machine that an ISO installs: the image, and room for a datastore."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
HIGHEST_PORT = 0xFFFF
GROUPS = 8
"""Of a recovery key's digits, on one line."""
LEAST_MEMORY = 1024
"""MiB: the image in RAM, and Linux beside it."""
STATUS = {Verdict.TRUSTED: 0, Verdict.UNTRUSTED: 1, Verdict.UNDECIDED: 2}


def register_machine(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``disk`` and ``run`` to the commands of ``casemate image``."""
    disk = actions.add_parser(
        "disk", help="build the disk of a machine that boots by itself, signed for Secure Boot"
    )
    disk.add_argument("--out", type=Path, help="the disk (default: <home>/bootable/disk.img)")
    disk.add_argument("--datastore", type=int, default=Layout().datastore, metavar="MIB")
    disk.add_argument("--keys", type=Path, help="write the Secure Boot keys to enrol here")
    disk.set_defaults(func=_disk)
    run = actions.add_parser(
        "run", help="boot the image in QEMU with Secure Boot and a TPM, and attest it"
    )
    run.add_argument("--name", default="trial", help="of the machine; its disk and TPM are kept")
    run.add_argument("--disk", type=Path, help="image of a new machine (built when absent)")
    run.add_argument("--iso", type=Path, help="install a new machine from this (unattended) ISO")
    run.add_argument("--fresh", action="store_true", help="begin with a new disk and a new TPM")
    run.add_argument("--port", type=int, default=0, help="of the API here (default: any free one)")
    run.add_argument("--memory", type=int, default=MEMORY, metavar="MIB")
    run.add_argument("--cpus", type=int, help="(default: 2, emulated 1)")
    run.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto")
    run.add_argument("--once", action="store_true", help="switch it off after the attestation")
    run.set_defaults(func=_run)
    line = actions.add_parser("console", help="the serial console of a machine that image run has")
    line.add_argument("--name", default="trial", help="of the machine")
    line.set_defaults(func=_console)
    for action in (disk, run):
        add_common(action)
    line.add_argument("--home", default=argparse.SUPPRESS, help="the host's home directory")


def build(home: Home, out: Path, *, quiet: bool, layout: Layout | None = None) -> dict[str, object]:
    """Build the disk; return the facts that ``image disk --json`` prints. Raises our errors."""
    began = time.monotonic()
    with steps("Building the machine", quiet=quiet) as progress:
        built = build_bootable(
            home.path,
            out,
            now=datetime.now(UTC),
            released=released(),
            layout=layout,
            progress=progress,
        )
    return {
        "disk": str(out),
        "build": built.image.build,
        "bank": str(built.image.bank),
        "bootImage": len(built.boot.data),
        "vibs": len(built.image.vibs),
        "reference": str(home.path / PLACE / REFERENCE),
        "seconds": round(time.monotonic() - began, 2),
    }


def _disk(options: argparse.Namespace) -> int:
    home = find_home(options.home)
    out = options.out or home.path / PLACE / DISK
    facts = build(home, out, quiet=options.json, layout=Layout(datastore=options.datastore))
    if options.keys is not None:
        facts["keys"] = [str(path) for path in write_enrolment(home.path, options.keys, RELEASED)]
    if options.json:
        print(json.dumps(facts))
        return 0
    print(f"Disk {out}: image {facts['build']}, {facts['vibs']} VIBs, {facts['seconds']} s")
    print(f"Reference {facts['reference']}")
    return 0


def _run(options: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the machine ends with us
    home = find_home(options.home)
    console = PlainConsole(quiet=options.json)
    place = _place(home, options.name)
    hardware = _hardware(options)
    if options.iso is not None and options.disk is not None:
        raise ArgumentError("a machine is made of a disk or from an ISO", argument="iso")
    for argument, path in (("iso", options.iso), ("disk", options.disk)):
        if path is not None and not path.is_file():
            raise ArgumentError(f"there is no file {path}", argument=argument)
    place.parent.mkdir(parents=True, exist_ok=True)
    with alone(place):
        hardware = replace(hardware, port=_port(options.port))
        if options.fresh:
            shutil.rmtree(place, ignore_errors=True)
        if options.iso is None:
            _prepare(home, place, options.disk, quiet=options.json)
        else:
            _install(home, place, options.iso, hardware, console)
        return _try(home, Machine(place, hardware), console, options)


def _try(home: Home, machine: Machine, console: Console, options: argparse.Namespace) -> int:
    """Boot and attest a machine, and keep it on until it, or somebody here, ends it."""
    with machine:
        machine.start()
        where = _way(home, machine)
        boot = follow(machine, console, quiet=options.json, where=where)
        appraisal = _attest(home, machine.place, machine.hardware.port)
        if options.json:
            print(json.dumps(_facts(machine, boot, appraisal)), flush=True)
        else:
            _show(console, machine, boot, appraisal, where)
        if not options.once:
            console.print("It stays on: F12 at its console ends it in order, Ctrl-C here at once.")
            with suppress(KeyboardInterrupt):
                while machine.running():
                    time.sleep(1)
    console.print("The machine is off.")
    return STATUS[appraisal.verdict]


def _place(home: Home, name: str) -> Path:
    if not NAME.fullmatch(name):
        raise ArgumentError(
            "a machine's name has letters, digits and ._- only, 64 at most", argument="name"
        )
    return home.path / "machines" / name


def _way(home: Home, machine: Machine) -> str:
    return f"casemate --home {home.path} image console --name {machine.place.name}"


def _hardware(options: argparse.Namespace) -> Hardware:
    """Return what the machine is made of; what it needs here is looked for before it is built.

    Raises ArgumentError, HostError.
    """
    if not 0 <= options.port <= HIGHEST_PORT:
        raise ArgumentError(f"ports go up to {HIGHEST_PORT}", argument="port")
    if options.memory < LEAST_MEMORY:
        raise ArgumentError(f"the machine needs {LEAST_MEMORY} MiB at least", argument="memory")
    if options.cpus is not None and options.cpus < 1:
        raise ArgumentError("the machine needs a processor", argument="cpus")
    for program in ("qemu-system-x86_64", "qemu-img", "swtpm", "swtpm_setup"):
        tools.find(program)
    Packages().version("ovmf")
    accelerator = _accelerator(options.accel)
    cpus = options.cpus or (2 if accelerator == "kvm" else 1)
    return Hardware(cpus, options.memory, accelerator, options.port)


def _console(options: argparse.Namespace) -> int:
    home = find_home(options.home)
    machine = Machine(_place(home, options.name), Hardware())
    with socket.socket(socket.AF_UNIX) as channel:
        try:
            channel.connect(str(machine.line))
        except OSError as error:
            raise HostError(
                f"the machine {options.name} is not on",
                code="machine-off",
                component=str(machine.line),
                remedy="Start it: casemate image run.",
            ) from error
        attach_line(channel, machine.last_screen())
    return 0


def _attest(home: Home, place: Path, port: int) -> Appraisal:
    """Attest the machine; a front end that has just begun to listen may need a moment."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            return attest_once(
                "127.0.0.1",
                port,
                home.path / PLACE / REFERENCE,
                Home(place).trust / "ek",
                time.time(),
                trust=home.trust,
            )
        except HostError as error:
            if error.code != "unreachable" or time.monotonic() > deadline:
                raise
            time.sleep(1)


def _prepare(home: Home, place: Path, disk: Path | None, *, quiet: bool) -> None:
    """Make the machine's directory unless it is there; the TPM is its own, and comes last."""
    if not (place / DISK).exists():
        if disk is None:
            disk = home.path / PLACE / DISK
            if not disk.exists():
                build(home, disk, quiet=quiet)
        packages = Packages()
        create(place, disk, ovmf_variables(home.path, packages, RELEASED), packages)
    swtpm.manufacture(Home(place))


def _install(home: Home, place: Path, iso: Path, hardware: Hardware, console: Console) -> None:
    """Make a machine with an empty disk and let the ISO install itself, unless it is there.

    It has no TPM meanwhile: nothing of an installer needs to be measured.
    """
    if (place / DISK).exists():
        console.print(f"{place.name} is installed already; --fresh installs it anew.")
    else:
        place.mkdir(parents=True, exist_ok=True)
        empty = place / "empty.img"
        with empty.open("wb") as stream:
            stream.truncate(EMPTY_SIZE)
        packages = Packages()
        try:
            create(place, empty, ovmf_variables(home.path, packages, RELEASED), packages)
            drives = ((iso.resolve(), "ide-cd"),)
            with Machine(place, replace(hardware, tpm=False, drives=drives)) as machine:
                machine.start()
                console.print(f"Installing from {iso}")
                where = _way(home, machine)
                follow_installer(machine, console, quiet=console.quiet, where=where)
            console.print("Installed; the machine starts from its disk.")
        except BaseException:
            (place / DISK).unlink(missing_ok=True)
            raise
        finally:
            empty.unlink()
    swtpm.manufacture(Home(place))


def _accelerator(wanted: str) -> str:
    """Return QEMU's accelerator: KVM only where it really runs a guest, unless asked for."""
    if wanted == "auto":
        wanted = "kvm" if probe_accelerator().name == "kvm" else "tcg"
    return "kvm" if wanted == "kvm" else "tcg,thread=multi"


def _port(wanted: int) -> int:
    """Return a port that can be listened on here: the wanted one, or any. Raises HostError."""
    try:
        with socket.create_server(("127.0.0.1", wanted)) as server:
            return int(server.getsockname()[1])
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise HostError(
            f"port {wanted} cannot be listened on: {os.strerror(error.errno or 0)}",
            code="port-taken" if taken else "port",
            component=str(wanted),
            remedy="Give another --port, or none: then any free one is taken.",
        ) from error


def _facts(machine: Machine, boot: Boot, appraisal: Appraisal) -> dict[str, object]:
    return {
        "state": "running",
        "api": f"https://localhost:{machine.hardware.port}/sdk",
        "port": machine.hardware.port,
        "pid": machine.pid,
        "place": str(machine.place),
        "accelerator": machine.hardware.accelerator.partition(",")[0],
        "user": "root",
        "password": boot.password or None,
        "recoveryKey": boot.recovery_key or None,
        "console": str(machine.line),
        "seconds": round(boot.seconds, 2),
        "stages": {name: round(taken, 2) for name, taken in boot.stages},
        "components": boot.components,
        "attestation": appraisal.verdict.value,
        "findings": [
            {"code": f.code, "component": f.component, "reason": f.reason, "remedy": f.remedy}
            for f in appraisal.findings
        ],
    }


def _show(console: Console, machine: Machine, boot: Boot, appraisal: Appraisal, where: str) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("Stage")
    table.add_column("Seconds", justify="right")
    for name, taken in (*boot.stages, ("total", boot.seconds)):
        table.add_row(name, f"{taken:.1f}")
    console.print(table)
    colour = "green" if appraisal.verdict is Verdict.TRUSTED else "red"
    console.print(styled("Attestation: ", (appraisal.verdict.value, f"bold {colour}")))
    for finding in appraisal.findings:
        console.print(f"  {finding.code} {finding.component}: {finding.reason}")
    console.print(
        styled("API ", (f"https://localhost:{machine.hardware.port}/sdk", "bold"), "   user root")
    )
    if boot.password:
        console.print(styled("First password, shown once: ", (boot.password, "bold")))
    if boot.recovery_key:
        groups = boot.recovery_key.split("-")
        console.print("Recovery key of the state, shown once:")
        for start in range(0, len(groups), GROUPS):
            console.print(styled("  ", ("-".join(groups[start : start + GROUPS]), "bold")))
    console.print(f"Direct console: {where}", soft_wrap=True)
