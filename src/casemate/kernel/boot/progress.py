"""What the boot tells the one who waits for it: one JSON object a line, on a pipe.

``{"stage": ..., ...}``: stage, component (with its row of the table), refused, ready.
Losing the reader is no reason to stop booting.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from casemate.errors import CasemateError


class Progress:
    """Writes to the pipe ``descriptor``; -1 for nobody listening."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def tell(self, stage: str, **more: object) -> None:
        """Tell one thing."""
        if self.descriptor < 0:
            return
        line = json.dumps({"stage": stage, "at": time.monotonic(), **more}) + "\n"
        with contextlib.suppress(OSError):
            os.write(self.descriptor, line.encode())

    def refuse(self, error: CasemateError) -> None:
        """Tell why the boot ends here."""
        self.tell(
            "refused",
            code=error.code,
            component=error.component,
            reason=error.reason,
            remedy=error.remedy,
        )
