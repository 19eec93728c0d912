"""What a network card costs: to be wired among many, and for each frame, against a plain bridge.

Needs root; works in network namespaces of its own. Frames go from one TAP interface through the
bridge to another, written and read by this program, so the ratio is an upper bound of the cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time

from casemate.kernel.sys.packetfilter import PacketFilters
from casemate.kernel.wires import Wires
from casemate.machine.networkplan import Card, Filter
from casemate.machine.networks import FIRST
from casemate.machine.wiring import plan_network

CARDS = 100
FRAMES = 3000
ROUNDS = 41
HEADER = bytes(10)


def card(number: int) -> Card:
    return Card(str(number), 0, f"00:50:56:00:00:{number:02x}", "VM Network")


def frame(source: int, target: int) -> bytes:
    ends = (card(target).mac + card(source).mac).replace(":", "")
    return HEADER + bytes.fromhex(ends) + b"\x08\x00" + bytes(1400)


def pass_frames(sender: int, receiver: int, data: bytes) -> float:
    begin = time.perf_counter()
    for _ in range(FRAMES):
        os.write(sender, data)
        os.read(receiver, 2048)
    return time.perf_counter() - begin


def drain(tap: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            os.read(tap, 2048)


def drop(name: str) -> None:
    with contextlib.closing(PacketFilters()) as filters:
        filters.drop(name)


def put(wanted: Filter) -> None:
    with contextlib.closing(PacketFilters()) as filters:
        filters.put(wanted, {})


async def main() -> None:
    wires, cards, taps, costs = Wires(None), [], [], []
    await wires.apply(plan_network(FIRST, ()))
    for number in range(1, CARDS + 1):
        begin = time.perf_counter()
        cards.append(card(number))
        taps.append(await wires.open_tap(cards[-1].tap))
        await wires.apply(plan_network(FIRST, cards))
        costs.append(time.perf_counter() - begin)
    first, last = statistics.median(costs[:10]), statistics.median(costs[-10:])
    print(f"wiring a card: {first * 1000:.1f} ms; the {CARDS}th {last * 1000:.1f} ms")
    data = frame(1, 2)
    for tap in taps:
        drain(tap)
    own = plan_network(FIRST, cards).filters[0]
    filtered, plain = [], []
    for _ in range(ROUNDS):
        filtered.append(pass_frames(taps[0], taps[1], data))
        await wires.run(drop, own.name)
        plain.append(pass_frames(taps[0], taps[1], data))
        await wires.run(put, own)
    ratio = statistics.median(a / b for a, b in zip(filtered, plain, strict=True))
    each = min(filtered) / FRAMES * 1e6
    print(f"a frame of 1,414 bytes: {each:.2f} us; {ratio:.3f} of a bridge without filters")
    for tap in taps:
        os.close(tap)
    await wires.close()


if __name__ == "__main__":
    asyncio.run(main())
