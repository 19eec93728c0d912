"""What can be asked about the host's maintenance mode: no VM runs, and none is started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from casemate.calls.messages import TaskReply

MAINTENANCE = "Host.Config.Maintenance"


@dataclass(frozen=True, slots=True)
class EnterMaintenance:
    """Wait until no VM runs, starting none, then stay so.

    ``seconds`` to wait (0: until it is cancelled).
    """

    session: str
    seconds: int = 0
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = MAINTENANCE


@dataclass(frozen=True, slots=True)
class ExitMaintenance:
    """Let VMs be started again."""

    session: str
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = MAINTENANCE


REQUESTS: tuple[type, ...] = (EnterMaintenance, ExitMaintenance)
