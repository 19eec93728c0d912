"""How long a card of a team is cut off when its cable is pulled, and what a cable between costs.

Run as root: ``.venv/bin/python bench/teaming.py``. The machine is a network namespace of its own;
the links of two network cards lead to a bridge that stands for the physical switch.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path

from casemate.calls import networks as c
from casemate.kernel.accounts import LOCAL_ROOT
from casemate.kernel.leasing import Leasing
from casemate.kernel.natting import Natting
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.switching import Switching
from casemate.kernel.sys.namespaces import Namespace, unshare
from casemate.kernel.sys.netlink import Links
from casemate.kernel.wires import Wires
from casemate.machine.facts import NicSpec, VmConfig
from casemate.machine.teaming import BY_ORDER, Teaming

HEADER = bytes(10)
KIND = 0x88B5
STATION = "02:00:00:00:00:09"
ROUNDS = 10
CARDS = 20
FRAMES = 20_000
EVERY = 0.001


def mac(number: int) -> str:
    return f"00:50:56:00:00:{number:02x}"


def frame(to: str, source: str, length: int = 60) -> bytes:
    both = bytes.fromhex((to + source).replace(":", ""))
    return HEADER + (both + KIND.to_bytes(2, "big")).ljust(length, b"\0")


def cable_up() -> None:
    with Links() as links:
        links.add_bridge("sw0")
        for name, far in (("up0", "far0"), ("up1", "far1"), ("st1", "st0")):
            links.add_cable(name, far)
            links.join(links.index(far), links.index("sw0"))
            links.set_up(links.index(far), up=True)
        links.set_up(links.index("sw0"), up=True)
        links.set_up(links.index("st1"), up=True)


def pull(name: str, *, back: bool = False) -> None:
    with Links() as links:
        links.set_up(links.index(name), up=back)


def heard(station: socket.socket) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while station.recv(2048):
            count += 1
    return count


async def outage(tap: int, station: socket.socket, far: str) -> float:
    """Return for how long nothing arrives when a cable is pulled, in seconds."""
    data = frame(STATION, mac(1))
    last, longest = time.perf_counter(), 0.0
    pulled = False
    end = last + 3
    while (now := time.perf_counter()) < end:
        if not pulled and now > end - 2.5:
            pulled = True
            await asyncio.to_thread(pull, far)
        os.write(tap, data)
        await asyncio.sleep(EVERY)
        if heard(station):
            moment = time.perf_counter()
            longest, last = max(longest, moment - last), moment
    return max(longest, time.perf_counter() - last)


def each(source: int, target: int, data: bytes) -> float:
    """Return the seconds that a frame from card to card takes."""
    taken = time.perf_counter()
    got = 0
    for number in range(FRAMES):
        os.write(source, data)
        if number % 50 == 0:
            got += drain(target)
    while got < FRAMES * 0.99 and time.perf_counter() < taken + 30:
        got += drain(target)
    return (time.perf_counter() - taken) / FRAMES


def drain(tap: int) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while os.read(tap, 2048):
            count += 1
    return count


class Nobody:
    """No VM is registered."""

    def vms(self) -> tuple[()]:
        return ()


async def main(place: Path) -> None:
    await asyncio.to_thread(cable_up)
    station = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
    station.bind(("st1", KIND))
    wires, store = Wires(None), Store(place / "casemate.db")
    natting = Natting(store, Leasing(wires.open_listener), "00000000", tuple)
    nics = frozenset({"up0", "up1"})
    switching = Switching(store, FactStream(), Nobody(), wires, lambda: nics, natting)  # type: ignore[arg-type]
    await switching.start({})
    loop = asyncio.create_task(switching.run())
    teaming = Teaming(BY_ORDER, failback=False)
    request = c.UpdateSwitch("", "vSwitch0", uplinks=("up0", "up1"), teaming=teaming)
    await switching.handlers()[c.UpdateSwitch](request, LOCAL_ROOT)
    async with contextlib.AsyncExitStack() as stack:
        taps = {}
        for number in range(1, CARDS + 1):
            nic = NicSpec(mac(number), "VM Network", "vmxnet3")
            config = VmConfig("v", "", "[d] v/v.vmx", "other", 1, 32, "bios", nics=(nic,))
            made = await stack.enter_async_context(switching.connect(str(number), config))
            taps[number] = made[0]
        await asyncio.sleep(1)
        found = []
        for turn in range(ROUNDS):
            far = f"far{turn % 2}"
            found.append(await outage(taps[1], station, far))
            await asyncio.to_thread(pull, far, back=True)
            await asyncio.sleep(2)
        print(
            f"{CARDS} cards, the cable of all is pulled: nothing arrives for"
            f" {statistics.median(found) * 1000:.0f} ms, at worst {max(found) * 1000:.0f} ms"
        )
        data = frame(mac(2), mac(1), 1414)
        together = min(each(taps[1], taps[2], data) for _ in range(5))
        request = c.UpdateSwitch("", "vSwitch0", teaming=Teaming("loadbalance_srcid"))
        await switching.handlers()[c.UpdateSwitch](request, LOCAL_ROOT)
        await asyncio.sleep(2)
        apart = min(each(taps[1], taps[2], data) for _ in range(5))
        print(
            f"a frame from card to card: {together * 1e6:.2f} us by the same uplink's bridge,"
            f" {apart * 1e6:.2f} us over a cable"
        )
    loop.cancel()
    await asyncio.wait([loop])
    await switching.close()
    store.close()
    station.close()


if __name__ == "__main__":
    unshare(Namespace.NET)
    with tempfile.TemporaryDirectory() as home:
        asyncio.run(main(Path(home)))
