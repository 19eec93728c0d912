"""Threads for what is costly and may wait: everything else on the host comes first."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

NICE: Final = 10
"""Priority of the threads (nice value): a tenth of the processor where others want it too."""


def yielding() -> None:
    """Let the calling thread, and what it starts, give way to all others."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def background(workers: int, name: str) -> ThreadPoolExecutor:
    """Return threads that give way to all others."""
    return ThreadPoolExecutor(workers, name, yielding)
