"""Fuzz target: what guests behind NAT may send to the DHCP server.

    python tests/fuzz/dhcp.py [SECONDS]

Where the coverage-guided fuzzer atheris is installed it drives; otherwise good questions are
mutated at random. Whatever the frame, only our own error may escape, and an answer goes to the
asking card.
"""

from __future__ import annotations

import random
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from ipaddress import IPv4Address

from casemate.errors import FormatError
from casemate.formats.dhcp import CLIENT_PORT, SERVER_PORT, write_request
from casemate.formats.udp import Datagram, End, parse_frame, write_frame
from casemate.machine.dhcp import DhcpService, answer_frame

SECONDS = 60.0
CARDS = {f"00:50:56:00:00:{number:02x}": f"10.1.2.{number + 2}" for number in range(8)}
SERVICE = DhcpService("10.1.2.0/24", "10.1.2.1", "02:ca:5e:00:00:00", ("192.0.2.53",), 1500, CARDS)


def target(data: bytes) -> None:
    """Answer one frame."""
    try:
        answer = answer_frame(SERVICE, data)
    except FormatError:
        return
    if answer is not None and parse_frame(answer).target.hardware != data[6:12]:
        raise RuntimeError("the answer goes to another card")


def question(draw: random.Random) -> bytes:
    """Return a good question of some card."""
    card = bytes.fromhex(draw.choice(list(CARDS)).replace(":", ""))
    ends = (
        End(card, IPv4Address(0), CLIENT_PORT),
        End(b"\xff" * 6, IPv4Address("255.255.255.255"), SERVER_PORT),
    )
    return write_frame(Datagram(*ends, write_request(draw.getrandbits(32), card, "guest")))


def mutated(draw: random.Random, data: bytes) -> bytes:
    """Change some bytes, mostly among the options; sometimes cut the end off."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 12)):
        start = draw.choice((0, 42, len(changed) - 24))
        changed[draw.randrange(start, len(changed))] = draw.choice(
            (0, 1, 0xFF, draw.randrange(256))
        )
    return bytes(changed[: draw.choice((len(changed), draw.randint(1, len(changed))))])


def main() -> None:
    """Run until the time is over; a defect ends it with its traceback."""
    if find_spec("atheris"):
        atheris = import_module("atheris")
        atheris.Setup(sys.argv, target)
        atheris.Fuzz()
        return
    seed = random.SystemRandom().getrandbits(32)
    draw, count = random.Random(seed), 0
    end = time.monotonic() + (float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
    while time.monotonic() < end:
        target(mutated(draw, question(draw)))
        count += 1
    sys.stdout.write(f"seed {seed}: {count} frames, no defect\n")


if __name__ == "__main__":
    main()
