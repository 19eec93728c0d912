"""What a machine tells while it starts or installs, as people see it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from casemate.errors import BootError
from casemate.image.vm import Machine

_NEXT = {
    "start": "Linux runs; the loader looks for a bank",
    "load": "payloads are verified and measured",
    "visor": "the state is opened",
    "locked": "the recovery key is waited for",
    "state": "the state is open; drivers are loaded",
    "settings": "drivers are loaded",
    "drivers": "the network is set up",
    "network": "account and certificate",
    "agents": "kernel and agents start",
    "image": "starts again with the other boot image",
}
"""What a machine is at once a stage was told."""
_INSTALLS = {
    "start": "the installer looks for disks",
    "asking": "the installer asks",
    "installing": "the installer looks at the disk",
    "write": "writing the disk",
    "verify": "reading it back",
}
"""What an installer is at, by its stage or the name of its bar."""


@dataclass(slots=True)
class Boot:
    """What a machine told while it booted: stages with the seconds they took."""

    stages: list[tuple[str, float]] = field(default_factory=list)
    components: int = 0
    password: str = ""
    recovery_key: str = ""
    address: str = ""

    @property
    def seconds(self) -> float:
        """From power-on to ready."""
        return sum(taken for _, taken in self.stages)


def follow(machine: Machine, console: Console, *, quiet: bool, where: str = "") -> Boot:
    """Show a boot until it is ready; ``where`` is how to reach the machine's console.

    Raises BootError with the machine's own reason where it is refused.
    """
    boot = Boot()
    last = time.monotonic()
    with _bars(console, quiet=quiet) as bar:
        task = bar.add_task("firmware verifies what it starts", total=None)
        for told in machine.told():
            stage = str(told["stage"])
            if stage == "refused":
                raise _refusal(told)
            if stage == "progress":
                continue
            if stage == "component":
                boot.components += 1
                number, total = int(str(told["number"])), int(str(told["total"]))
                bar.update(task, completed=number, total=total, description=str(told["file"]))
                continue
            if stage == "locked":
                console.print(f"The state of this host stays encrypted: {told['reason']}")
                console.print(f"Type the recovery key {told['recoveryId']} at its console: {where}")
            now = time.monotonic()
            if stage == "start":
                linux = float(str(told["uptime"]))
                boot.stages.append(("firmware", max(now - last - linux, 0.0)))
                boot.stages.append(("Linux", linux))
            else:
                boot.stages.append((stage, now - last))
            last = now
            bar.remove_task(task)  # each stage has a time of its own
            task = bar.add_task(_NEXT.get(stage, stage), total=None)
            boot.password = str(told.get("password", boot.password))
            boot.recovery_key = str(told.get("recoveryKey", boot.recovery_key))
            boot.address = str(told.get("address", boot.address))
    return boot


def follow_installer(machine: Machine, console: Console, *, quiet: bool, where: str) -> None:
    """Show an installation until it is done; an installer that asks is waited for.

    Raises BootError with the installer's own reason where it refuses.
    """
    with _bars(console, quiet=quiet) as bar:
        task = bar.add_task("firmware verifies what it starts", total=None)
        for told in machine.told():
            stage = str(told["stage"])
            if stage == "refused":
                raise _refusal(told)
            if stage == "installed":
                return
            if stage == "asking":
                console.print(f"The installer asks at its console: {where}")
            what = _INSTALLS.get(str(told.get("what", stage)), stage)
            done = int(str(told.get("percent", 0)))
            bar.update(task, completed=done, total=100 if done else None, description=what)


def _bars(console: Console, *, quiet: bool) -> Progress:
    columns = (
        TextColumn("    {task.description:<44}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=quiet)


def _refusal(told: Mapping[str, object]) -> BootError:
    return BootError(
        str(told["reason"]),
        code=str(told["code"]),
        component=str(told["component"]),
        remedy=str(told["remedy"]),
    )
