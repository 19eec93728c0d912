"""Threads of their own for work that takes minutes: copies of whole disks, archives.

What every request needs (a look at a file, a password's hash) shares the event loop's pool; four
copies at once would hold it up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

AT_ONCE: Final = 4
"""Long copies at once: more of them only make a disk seek; the others wait for their turn."""
_pool = ThreadPoolExecutor(AT_ONCE, "long")
_P = ParamSpec("_P")
_R = TypeVar("_R")


async def in_own_thread(work: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run long blocking work apart from all short work, and return what it returns."""
    call = partial(work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_pool, call)
