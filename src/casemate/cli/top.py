"""``casemate top``: what host and VMs do now, live in the terminal."""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Final

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from casemate.calls.statistics import LoadReply, QueryLoad, VmLoad
from casemate.cli.calls import Calls
from casemate.cli.terminal import PlainConsole
from casemate.errors import ArgumentError
from casemate.kernel.home import find_home

_GIB: Final = 1 << 30
_MIB: Final = 1 << 20
_STATES: Final = ("high", "clear", "soft", "hard", "low")
_COLOURS: Final = ("green", "green", "yellow", "red", "bold red")
_LEAST: Final = 1.0
"""Seconds between two looks: the scheduler measures once a second."""
_READY_BAD: Final = 10.0
_ORDERS: Final[dict[str, tuple[str, Callable[[VmLoad], int | str]]]] = {
    "c": ("CPU", lambda vm: -vm.cpu_mhz),
    "r": ("ready", lambda vm: -vm.ready),
    "m": ("memory", lambda vm: -vm.memory_held),
    "n": ("name", lambda vm: vm.name),
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("top", help="what host and VMs do now, live")
    parser.add_argument("--once", action="store_true", help="print one look and end")
    parser.add_argument("--interval", type=float, default=2.0, help="seconds between two looks")
    parser.add_argument("--json", action="store_true", help="print as JSON, a line a look")
    parser.set_defaults(func=_top)


def _top(options: argparse.Namespace) -> int:
    if not _LEAST <= options.interval <= 3600:  # noqa: PLR2004  (an hour)
        raise ArgumentError("the interval is 1 to 3600 seconds", argument="interval")
    with Calls(find_home(options.home).calls_socket) as calls:
        if options.json:
            while True:
                print(json.dumps(asdict(_look(calls))), flush=True)
                if options.once:
                    return 0
                time.sleep(options.interval)
        if options.once or not sys.stdin.isatty() or not sys.stdout.isatty():
            PlainConsole().print(_page(_look(calls), "c", keys=False))
            return 0
        _live(calls, options.interval)
    return 0


def _look(calls: Calls) -> LoadReply:
    return calls.ask(QueryLoad(""), LoadReply)


def _live(calls: Calls, interval: float) -> None:
    order = "c"
    console = PlainConsole()
    with _keys(), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_page(_look(calls), order, keys=True), refresh=True)
            until = time.monotonic() + interval
            while (left := until - time.monotonic()) > 0:
                if not select.select([sys.stdin], [], [], left)[0]:
                    break
                key = sys.stdin.read(1).lower()
                if key in ("q", "\x03", ""):
                    return
                if key in _ORDERS:
                    order = key
                    break


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Hand keys over one by one, unseen."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _page(load: LoadReply, order: str, *, keys: bool) -> RenderableType:
    parts: list[RenderableType] = [_host(load), Text()]
    parts.append(_vms(load, order) if load.vms else Text("No VM runs."))
    if keys:
        choices = "  ".join(f"{key} {name}" for key, (name, _) in _ORDERS.items())
        parts += [Text(), Text(f"q quit   sort: {choices}", style="dim")]
    return Group(*parts)


def _host(load: LoadReply) -> Text:
    """Return the two lines about the host."""
    cpu = 100 * load.cpu_mhz / max(1, load.cpu_capacity_mhz)
    used = load.memory_size - load.memory_free
    memory = 100 * used / max(1, load.memory_size)
    text = Text()
    text.append(time.strftime("%H:%M:%S", time.localtime(load.time)), "bold")
    text.append(f"   {len(load.vms)} VM{'s' if len(load.vms) != 1 else ''} running\n")
    text.append("CPU ")
    text.append_text(_bar(cpu))
    text.append(f" {cpu:5.1f} %  {load.cpu_mhz} of {load.cpu_capacity_mhz} MHz for VMs\n")
    text.append("MEM ")
    text.append_text(_bar(memory))
    text.append(f" {memory:5.1f} %  {used / _GIB:.1f} of {load.memory_size / _GIB:.1f} GiB   ")
    text.append(_STATES[load.state], _COLOURS[load.state])
    return text


def _bar(percent: float, width: int = 20) -> Text:
    filled = max(0, min(width, round(percent * width / 100)))
    bar = Text("[")
    bar.append("|" * filled, "green" if percent < 90 else "red")  # noqa: PLR2004  (nearly full)
    bar.append(" " * (width - filled) + "]")
    return bar


def _vms(load: LoadReply, order: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column("VM", no_wrap=True, overflow="ellipsis")
    for title in (
        "MHz",
        "wants",
        "entitled",
        "ready %",
        "MiB",
        "held",
        "active",
        "entl",
        "balloon",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    _, by = _ORDERS[order]
    for vm in sorted(load.vms, key=by):
        table.add_row(*_row(vm))
    return table


def _row(vm: VmLoad) -> tuple[str | Text, ...]:
    ready = vm.ready / 100
    balloon = "-" if not vm.balloon_driver else str(vm.balloon // _MIB)
    if vm.balloon_target != vm.balloon:
        balloon += f">{vm.balloon_target // _MIB}"
    limited = "" if vm.quota_us < 0 else "!"
    return (
        vm.name,
        f"{vm.cpu_mhz}{limited}",
        str(vm.demand_mhz),
        str(vm.entitlement_mhz),
        Text(f"{ready:.1f}", "red" if ready >= _READY_BAD else ""),
        str(vm.memory_size // _MIB),
        str(vm.memory_held // _MIB),
        str(vm.memory_active // _MIB),
        str(vm.memory_entitlement // _MIB),
        balloon,
    )
