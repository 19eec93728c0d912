"""Bringing a host up: image, TPM, launch, services, demo VM, proof; told as it happens."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import select
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from casemate.calls import messages as m
from casemate.cli import vmtasks as vm_commands
from casemate.cli.attest import attest_once
from casemate.cli.calls import Calls
from casemate.cli.terminal import styled
from casemate.errors import BootError, CasemateError, Finding
from casemate.image.build import build_image
from casemate.image.demo import write_demo
from casemate.image.provenance import built_from_others
from casemate.image.reference import write_reference
from casemate.kernel.accounts import Accounts, generate_password
from casemate.kernel.apisocket import listen
from casemate.kernel.boot import running
from casemate.kernel.boot.bank import read_banks, write_states
from casemate.kernel.boot.launch import boot_time, launch
from casemate.kernel.boot.progress import Progress as Teller
from casemate.kernel.boot.settings import Settings
from casemate.kernel.certificate import ensure_certificate
from casemate.kernel.home import HOSTD_UID, Home
from casemate.kernel.natting import note_name_servers
from casemate.kernel.store import Store
from casemate.kernel.tpm import swtpm
from casemate.machine.facts import PowerState
from casemate.policy.banks import Bank, after_failure, plan_boot

BOOT_SECONDS = 180.0
"""Silence on the progress pipe for longer than this means that the boot hangs."""

DEMO = "[datastore1] demo/demo.vmx"


@dataclass(slots=True)
class Result:
    """What ``casemate up`` did."""

    home: str
    api: str = ""
    bank: str = ""
    password: str = ""
    components: list[dict[str, object]] = field(default_factory=list)
    stages: list[tuple[str, float]] = field(default_factory=list)
    vms: list[tuple[str, str]] = field(default_factory=list)
    verdict: str = "undecided"
    findings: list[Finding] = field(default_factory=list)

    def as_json(self, seconds: float) -> dict[str, object]:
        """Return the shape that ``casemate up --json`` prints."""
        return {
            "state": "running",
            "home": self.home,
            "api": self.api,
            "bank": self.bank,
            "user": "root",
            "password": self.password or None,
            "seconds": round(seconds, 3),
            "stages": {name: round(taken, 3) for name, taken in self.stages},
            "components": self.components,
            "vms": [{"name": name, "power": power} for name, power in self.vms],
            "attestation": self.verdict,
            "findings": [
                {"code": f.code, "component": f.component, "reason": f.reason, "remedy": f.remedy}
                for f in self.findings
            ],
        }


CHANGED = (
    "The sources of casemate changed since this image was built: it boots as it was built and"
    " signed. casemate up --rebuild builds it anew (without VIBs that were installed since)."
)
"""What is said of a home with an older image; nobody's host is replaced without being asked."""


class BringUp:
    """One run of ``casemate up``. Raises our errors; what was started is ended then."""

    def __init__(
        self, home: Home, console: Console, *, port: int, host_name: str, rebuild: bool = False
    ) -> None:
        self._home = home
        self._rebuild = rebuild
        self._console = console
        self._port = port
        self._host_name = host_name
        self._result = Result(str(home.path))

    def run(self, *, demo: bool) -> Result:
        """Do everything that is lacking and return what was done."""
        # Before all else: a port that is taken is no fault of any boot bank.
        with listen(self._port) as listener:
            return self._run(listener, demo=demo)

    def _run(self, listener: socket.socket, *, demo: bool) -> Result:
        home = self._home
        home.create()
        running.clean(home)
        note_name_servers(home)
        if self._rebuild or not any((bank / "boot.cfg").exists() for bank in home.banks):
            with self._stage("image"):
                self._build()
        elif built_from_others(home.path):
            self._say(CHANGED)
        with self._stage("account"):
            self._first_account()
            ensure_certificate(home.tls, self._host_name, HOSTD_UID, dt.datetime.now(dt.UTC))
        if not swtpm.is_manufactured(home):
            with self._stage("TPM manufactured"):
                self._say("Manufacturing the embedded TPM with its EK certificate")
                swtpm.manufacture(home)
        self._boot(listener)
        if demo:
            with self._stage("demo VM"):
                self._demo()
        with self._stage("attestation"):
            self._attest()
        return self._result

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._result.stages.append((name, time.monotonic() - began))

    def _say(self, words: str) -> None:
        self._console.print(styled(("==>", "bold"), f" {words}"))

    def _build(self) -> None:
        home = self._home
        self._say("Building and signing the image (development keys, kept in the home)")
        now = dt.datetime.now(dt.UTC)
        with _bar(self._console) as bar:
            task = bar.add_task("image", total=None)

            def show(what: str, done: int, of: int) -> None:
                name = Path(what).name or "reading packages"
                bar.update(task, completed=done, total=of, description=name)

            build_image(home.path, home.path / "vibs", now=now, progress=show)
        write_reference(home.path, home.path / "bootbank", home.reference, now=now)

    def _first_account(self) -> None:
        store = Store(self._home.database)
        try:
            if store.account("root") is None:
                self._result.password = generate_password()
                Accounts(store, time.time).set_password(
                    "root", "Administrator", self._result.password, "Admin"
                )
        finally:
            store.close()

    def _boot(self, listener: socket.socket) -> None:
        home = self._home
        plan = plan_boot(read_banks(home))
        while True:
            write_states(home, plan.states)
            for finding in plan.findings:
                if finding.code == "bank-empty":
                    continue
                self._console.print(
                    styled(("refused", "bold red"), f" {finding.component}: {finding.reason}")
                )
            try:
                self._boot_bank(plan.bank, listener)
            except CasemateError as error:
                running.clean(home)
                plan = after_failure(plan, _told(error))
            else:
                return

    def _boot_bank(self, bank: Bank, listener: socket.socket) -> None:
        home = self._home
        if bank.config is None:
            raise BootError(f"{bank.name} has no boot.cfg", component=bank.name)
        port = listener.getsockname()[1]
        reader, writer = os.pipe2(os.O_CLOEXEC)
        api = f"https://{self._host_name}:{port}/sdk"
        settings = Settings(
            home=str(home.path),
            bank=bank.name,
            host_name=self._host_name,
            api=api,
            progress=writer,
            listener=listener.fileno(),
            loader=-1,
            boot_time=boot_time(),
            launch_digests={},
        )
        began = time.monotonic()
        pidfd = -1
        try:
            child = launch(home, settings, bank.config.kernel, Teller(writer))
            pidfd = child.pidfd
            running.note(home, child.pid, api, self._host_name, bank.name)
            os.close(writer)
            writer = -1
            self._follow(reader, began)
        except BaseException:
            if pidfd >= 0:
                running.abort(pidfd)
            raise
        finally:
            for descriptor in (reader, writer, pidfd):
                if descriptor >= 0:
                    os.close(descriptor)
        self._result.api = api
        self._result.bank = bank.name

    def _follow(self, reader: int, began: float) -> None:
        with _bar(self._console) as bar:
            task = bar.add_task("launch", total=None)
            last = began
            for told in _lines(reader):
                stage = str(told["stage"])
                if stage == "component":
                    self._component(bar, task, told)
                    continue
                if stage == "refused":
                    raise BootError(
                        str(told["reason"]),
                        code=str(told["code"]),
                        component=str(told["component"]),
                        remedy=str(told["remedy"]),
                    )
                bar.update(task, description=stage)
                at = float(str(told["at"]))
                self._result.stages.append((stage, at - last))
                last = at
                if stage == "ready":
                    return
        raise BootError(
            "the boot ended without a word",
            code="boot-died",
            remedy="Look at run/log/boot.log, init.log, kernel.log and hostd.log in the home.",
        )

    def _component(self, bar: Progress, task: TaskID, told: dict[str, object]) -> None:
        bar.update(
            task,
            completed=int(str(told["number"])),
            total=int(str(told["total"])),
            description=f"{told['file']} verified, measured, mounted",
        )
        self._result.components.append(
            {k: v for k, v in told.items() if k not in ("stage", "at", "number", "total")}
        )

    def _demo(self) -> None:
        home = self._home
        vms = vm_commands.vms_of(home)
        if not vms:
            place = home.volumes / "datastore1" / "demo"
            if not (place / "demo.vmx").exists():
                shutil.rmtree(place, ignore_errors=True)
                write_demo(place)
            with Calls(home.calls_socket) as calls:
                task = calls.ask(m.RegisterVm("", DEMO, "casemate up"), m.TaskReply).task
            vm_commands.wait(home, task)
            vms = vm_commands.vms_of(home)
        for fact in vms:
            if fact.config.vmx_path == DEMO and fact.power is PowerState.POWERED_OFF:
                with Calls(home.calls_socket) as calls:
                    task = calls.ask(m.PowerOn("", fact.vm, "casemate up"), m.TaskReply).task
                vm_commands.wait(home, task)
        self._result.vms = [
            (fact.config.name, fact.power.value) for fact in vm_commands.vms_of(home)
        ]

    def _attest(self) -> None:
        port = int(self._result.api.rpartition(":")[2].partition("/")[0])
        if not self._home.reference.exists():
            return
        appraisal = attest_once(
            "127.0.0.1", port, self._home.reference, self._home.trust / "ek", time.time()
        )
        self._result.verdict = appraisal.verdict
        self._result.findings = list(appraisal.findings)


def _told(error: CasemateError) -> Finding:
    about = f"{error.component}: " if error.component else ""
    return replace(error.finding(), reason=f"{about}{error.reason}")


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("    {task.description:<44}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _lines(reader: int) -> Iterator[dict[str, object]]:
    waiting = b""
    while True:
        ready, _, _ = select.select([reader], [], [], BOOT_SECONDS)
        if not ready:
            raise BootError(
                f"the boot has been silent for {BOOT_SECONDS:.0f} s",
                code="boot-hangs",
                remedy="Look at the logs under run/log in the home.",
            )
        data = os.read(reader, 1 << 16)
        if not data:
            return
        *lines, waiting = (waiting + data).split(b"\n")
        for line in lines:
            yield json.loads(line)


def print_summary(console: Console, result: Result, seconds: float) -> None:
    """Print what was done: components, stages, VMs, verdict, address, first password."""
    signers = list(dict.fromkeys(str(row["provider"]) for row in result.components))
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("component", "VIB", "version", "level", "PCRs", "sha256", "by"):
        table.add_column(title, no_wrap=True)
    for row in result.components:
        provider = str(row["provider"])
        table.add_row(
            str(row["file"]),
            str(row["vib"]),
            str(row["version"]),
            str(row["level"]),
            str(row["pcr"]),
            str(row["sha256"])[:8],
            f"[{signers.index(provider) + 1}]" if provider else "",
        )
    console.print()
    console.print(table)
    for provider in filter(None, signers):
        console.print(f"[{signers.index(provider) + 1}] {provider}", style="dim")
    console.print()
    for name, taken in result.stages:
        console.print(f"{name:<18}{taken:>7.2f} s", style="dim")
    console.print(f"{'total':<18}{seconds:>7.2f} s\n", style="dim")
    for name, power in result.vms:
        console.print(f"VM {name}: {power}")
    colour = "green" if result.verdict == "trusted" else "red"
    console.print(styled("Attestation: ", (result.verdict, f"bold {colour}")))
    for finding in result.findings:
        console.print(
            f"  {finding.code} {finding.component}: {finding.reason} {finding.remedy}",
        )
    password: tuple[str | tuple[str, str], ...] = (
        ("   password ", (result.password, "bold"), " (shown once)") if result.password else ()
    )
    console.print(
        styled(
            ("Casemate is up.", "bold"), "   API ", (result.api, "bold"), "   user root", *password
        ),
        soft_wrap=True,
    )
