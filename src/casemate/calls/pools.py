"""Requests about resource pools: change the tree, ask why, and ask what if."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from casemate.calls.messages import Empty
from casemate.machine.facts import Allocation, FaultFact


@dataclass(frozen=True, slots=True)
class PoolReply:
    """The id of the pool that was made."""

    pool: str


@dataclass(frozen=True, slots=True)
class StepEntry:
    """How one pool shared its amount, seen by the child on the way; in the resource's unit."""

    pool: str
    budget: int
    siblings: int
    node: str
    amount: int
    floor: int
    ceiling: int
    weight: int
    weights: int
    by_shares: int
    bound: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Reasons:
    """Why a VM or pool has what it has of one resource (``cpu``: MHz, ``memory``: bytes).

    ``usage`` and ``demand`` are as measured; ``static`` is what it would get if every VM wanted
    all it may.
    """

    resource: str
    amount: int
    static: int
    usage: int
    demand: int
    steps: tuple[StepEntry, ...]


@dataclass(frozen=True, slots=True)
class DecisionEntry:
    """Something that was set, and what it followed from; values are numbers with their names."""

    time: float
    vm: str
    what: str
    inputs: tuple[tuple[str, int], ...]
    outcome: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ExplainReply:
    """Reasons for each resource, and the latest decisions about it, newest last.

    ``disk_shares`` are those of a VM's disks together, ``disk_weigher`` what of the host's Linux
    weighs them against others' (empty: nothing does, so they change nothing).
    """

    node: str
    name: str
    reasons: tuple[Reasons, ...]
    decisions: tuple[DecisionEntry, ...]
    disk_shares: int = 0
    disk_weigher: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """A change to try: ``kind`` is power-on, power-off, set, create, move, remove or resize.

    ``node`` is a VM or pool, ``pool`` where to (create, move). Allocations that are None stay.
    ``resize`` tries another host: ``cpu_mhz`` and ``memory`` (bytes), 0: as it is.
    """

    kind: str
    node: str = ""
    pool: str = ""
    cpu: Allocation | None = None
    memory: Allocation | None = None
    cpu_mhz: int = 0
    memory_size: int = 0


@dataclass(frozen=True, slots=True)
class Moved:
    """What a VM has of a resource before and after."""

    vm: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What would become of one resource; ``refusal`` says why the next change would be refused."""

    resource: str
    admitted: int
    moved: tuple[Moved, ...]
    colour: str
    refusal: FaultFact | None


@dataclass(frozen=True, slots=True)
class WhatIfReply:
    """The outcome for each resource."""

    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class CreatePool:
    """Make a resource pool in another; its reservations are taken from there at once."""

    session: str
    parent: str
    name: str
    cpu: Allocation
    memory: Allocation
    scale_descendants: bool = False
    why: str = ""
    reply: ClassVar = PoolReply
    privilege: ClassVar[str] = "Resource.CreatePool"


@dataclass(frozen=True, slots=True)
class UpdatePool:
    """Change a pool's name, allocations or scaling; what is None stays."""

    session: str
    pool: str
    name: str | None = None
    cpu: Allocation | None = None
    memory: Allocation | None = None
    scale_descendants: bool | None = None
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Resource.EditPool"


@dataclass(frozen=True, slots=True)
class MovePool:
    """Move a pool, with all in it, into another."""

    session: str
    pool: str
    parent: str
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Resource.MovePool"


@dataclass(frozen=True, slots=True)
class AssignVm:
    """Move a VM into a pool."""

    session: str
    vm: str
    pool: str
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Resource.AssignVMToPool"


@dataclass(frozen=True, slots=True)
class RemovePool:
    """Remove a pool; what is in it moves to its parent."""

    session: str
    pool: str
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Resource.DeletePool"


@dataclass(frozen=True, slots=True)
class ReconfigureResources:
    """Change a VM's reservations, limits and shares, running or not; what is None stays."""

    session: str
    vm: str
    cpu: Allocation | None = None
    memory: Allocation | None = None
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "VirtualMachine.Config.Resource"


@dataclass(frozen=True, slots=True)
class Explain:
    """Why a running VM, or a pool, gets what it gets."""

    session: str
    node: str
    reply: ClassVar = ExplainReply
    privilege: ClassVar[str] = "System.Read"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What changes would do, without making them."""

    session: str
    trials: tuple[Trial, ...]
    reply: ClassVar = WhatIfReply
    privilege: ClassVar[str] = "System.Read"
    audited: ClassVar[bool] = False


REQUESTS: tuple[type, ...] = (
    AssignVm,
    CreatePool,
    Explain,
    MovePool,
    ReconfigureResources,
    RemovePool,
    UpdatePool,
    WhatIf,
)
