"""Ports for servers that are started later, or twice, at a port that must be known before."""

from __future__ import annotations

import itertools
import os
import socket

FIRST, COUNT = 20_000, 12_000
"""Below what Linux gives to connections by itself (32768 upwards)."""
_turns = itertools.count()


def free_port() -> int:
    """Return a TCP port of loopback that nobody has, and that no connection gets by chance."""
    for turn in _turns:
        # Tests that run beside these begin elsewhere.
        port = FIRST + (os.getpid() * 101 + turn) % COUNT
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("unreachable")
