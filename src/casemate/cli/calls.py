"""The command line's end of the calls socket: the console's."""

from __future__ import annotations

from casemate.console.client import TIMEOUT, Calls, RefusedError

__all__ = ["TIMEOUT", "Calls", "RefusedError"]
