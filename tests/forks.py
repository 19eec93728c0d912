"""Children that tests fork: whatever goes wrong in one, it never goes on as a second test run."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def forked(body: Callable[[], object]) -> int:
    """Run a function in a child process, which ends with it; return the child's pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            body()
            status = 0
        except BaseException:  # noqa: BLE001 (the parent sees that it failed)
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid
