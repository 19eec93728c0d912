"""Merging the deltas of a VM's disks that no snapshot needs any more."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from casemate.errors import CasemateError
from casemate.formats import vmdk, vmx
from casemate.formats.datastorepath import beside, full, in_volume, local
from casemate.formats.vmdk import CreateType
from casemate.formats.vmx import Vmx
from casemate.kernel.cells import blocks, disks
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.elsewhere import going
from casemate.kernel.inventory import VMX_LIMIT
from casemate.kernel.snapshotfiles import (
    check_book,
    check_needs,
    drop,
    last_number,
    renamed_disks,
    write_book,
    written,
)
from casemate.kernel.vmcontext import VmContext
from casemate.kernel.vmfiles import disks_of_snapshots, state_name, strangers, whole_chain
from casemate.machine.chains import Drop, Merge, plan_consolidation
from casemate.machine.facts import Allocation, DiskSpec, PowerState, VmFact
from casemate.machine.power import Operation

Report = Callable[[int, int], None]
_DELTA: Final = re.compile(r".+-[0-9]{6}\.vmdk")
# MiB: a QEMU that only works on disks, with a guest that never runs.
_MERGING_MEMORY: Final = 16


@dataclass(frozen=True, slots=True)
class _Graph:
    """A VM's disks and deltas: ``parents`` by name, and which may never be written."""

    parents: Mapping[str, str]
    frozen: frozenset[str]


def untold(_done: int, _total: int) -> None:
    """Tell nobody."""


def _part(report: Report, number: int, of: int) -> Report:
    """Return what tells of one step in ``of`` as a part of the whole."""

    def told(done: int, total: int) -> None:
        scale = max(total, 1)
        report(number * scale + min(done, scale), of * scale)

    return told


class Consolidation:
    """Makes chains of disks shorter. See ``kernel.snapshots`` for what a crash leaves."""

    def __init__(self, context: VmContext) -> None:
        self._context = context

    async def run(self, fact: VmFact, report: Report = untold, had: Collection[str] = ()) -> None:
        """Make the chains of disks as short as the snapshots allow.

        ``had`` are deltas that the VM had, which go if nobody needs them.

        Raises:
            CasemateError: A merge failed, or ``report`` ended it; the disks are as the guest wrote
                them, and what is left can be merged later.
        """
        with self._context.open(fact) as directory, ExitStack() as held:
            graph, steps = await asyncio.to_thread(
                planned, self._context, directory, fact, had, held
            )
            parents = dict(graph.parents)
            for number, step in enumerate(steps):
                if isinstance(step, Drop):
                    await asyncio.to_thread(drop, directory, step.name)
                    del parents[step.name]
                    continue
                told = _part(report, number, len(steps))
                if not await self._merge(directory, fact, step, told):
                    continue
                fact = self._replace(directory, fact, step, parents)
                del parents[step.name]
                await asyncio.to_thread(drop, directory, step.name)

    async def _merge(
        self, directory: VmDirectory, fact: VmFact, step: Merge, report: Report
    ) -> bool:
        """Merge one delta; False where it waits until the VM is off."""
        spec = DiskSpec(step.name, "disk", "vmdk", 0, "scsi0", 0)
        if fact.power is not PowerState.POWERED_ON:
            alone = replace(
                fact.config,
                disks=(spec,),
                nics=(),
                cpus=1,
                memory_mib=_MERGING_MEMORY,
                firmware="bios",
                cpu_allocation=Allocation(),
                memory_allocation=Allocation(),
                extra=(("svga.present", "FALSE"),),
            )
            await self._context.cells.power_on(fact.vm, alone, directory.path, run=False)
            try:
                qmp = await self._context.cells.control(fact.vm, Operation.CONSOLIDATE)
                chain = disks.resolve(directory, (spec,))[0].layers
                await blocks.merge(qmp, directory, chain, 0, report)
            finally:
                await self._context.cells.power_off(fact.vm)
            return True
        merged = disks.resolve(directory, (spec,))[0].file_name
        for source in disks.resolve(directory, written(fact.config)):
            names = [layer.file_name for layer in source.layers]
            if merged in names:
                qmp = await self._context.cells.control(fact.vm, Operation.CONSOLIDATE)
                at = names.index(merged)
                await blocks.merge(qmp, directory, source.layers, at, report)
                return True
        return False

    def _replace(
        self, directory: VmDirectory, fact: VmFact, step: Merge, parents: dict[str, str]
    ) -> VmFact:
        """Name the lower disk wherever the merged one was named."""
        for name, lower in parents.items():
            if lower == step.name:
                described = disks.describe(directory, name)
                into = step.into.rpartition("/")[2]
                directory.write(name, vmdk.write(replace(described, parent=into)))
                parents[name] = step.into
        renamed = tuple(
            replace(
                one,
                disks=tuple(
                    (slot, step.into if name == step.name else name) for slot, name in one.disks
                ),
            )
            for one in fact.snapshots
        )
        if renamed != fact.snapshots:
            last = last_number(directory, fact)
            write_book(directory, fact, renamed, fact.current_snapshot, last)
            for one in fact.snapshots:
                _rename_in_state(directory, fact, one.number, step)
        config = renamed_disks(fact.config, {step.name: step.into})
        if config != fact.config:
            return self._context.rewrite(directory, fact, config)
        return self._context.inventory.reread(fact.vm)


def planned(
    context: VmContext,
    directory: VmDirectory,
    fact: VmFact,
    had: Collection[str],
    held: ExitStack,
) -> tuple[_Graph, tuple[Drop | Merge, ...]]:
    """Plan the consolidation of a VM's disks; till ``held`` ends no other VM gets what it changes.

    Raises:
        CasemateError: As ``consolidation_steps``, or another VM is about to have a file.
    """
    names: frozenset[str] = frozenset()
    while True:
        with ExitStack() as keeping:
            keeping.enter_context(going(context, fact, names))
            graph, steps = consolidation_steps(directory, fact, context.neighbours(fact), had)
            touched = {part for step in steps for part in _touched(directory, step)}
            if touched <= names:
                held.enter_context(keeping.pop_all())
                return graph, steps
        names |= touched


def _touched(directory: VmDirectory, step: Drop | Merge) -> Iterator[str]:
    for name in (step.name,) if isinstance(step, Drop) else (step.name, step.into):
        yield from directory.files_of(name)


def consolidation_steps(
    directory: VmDirectory,
    fact: VmFact,
    others: Iterable[VmFact],
    had: Collection[str] = (),
) -> tuple[_Graph, tuple[Drop | Merge, ...]]:
    """Plan the consolidation of a VM's disks; what other VMs in their folders use stays.

    Args:
        directory: Of the VM.
        fact: The VM.
        others: The other registered VMs there; those that are not are found by their files.
        had: Deltas that the VM had.

    Raises:
        CasemateError: The list of its snapshots, a disk, or a file of another VM, cannot be read.
    """
    others = tuple(others)
    check_book(directory, fact)
    for other in others:
        check_needs(directory, other, seen_from=fact)
    current = {disk.file_name for disk in written(fact.config)}
    pinned = {name for one in fact.snapshots for _, name in one.disks}
    for other in others:
        tops = {disk.file_name for disk in other.config.disks}
        tops |= {name for one in other.snapshots for _, name in one.disks}
        ours = {local(full(top, other.config.vmx_path), fact.config.vmx_path) for top in tops}
        pinned |= {layer for top in ours for layer in whole_chain(directory, other, top)}
    pinned |= strangers(directory, (fact, *others))
    graph = _graph(directory, current | pinned, set(had))
    steps = plan_consolidation(graph.parents, pinned | graph.frozen, current)
    return graph, steps


def layers_of(directory: VmDirectory, fact: VmFact) -> frozenset[str]:
    """Return the disks and deltas that a VM's snapshots are of or need."""
    tops = {disk.file_name for disk in written(fact.config)} | {*disks_of_snapshots(fact)}
    return frozenset(layer for top in tops for layer in directory.known_chain(top))


def _graph(directory: VmDirectory, tops: set[str], had: set[str]) -> _Graph:
    """Find all disks below ``tops``, and all deltas above those.

    What nobody here knows is a leftover in the VM's directory, and a stranger's elsewhere.

    Raises:
        CasemateError: What lies below one of ``tops`` cannot be told.
    """
    parents: dict[str, str] = {}
    frozen: set[str] = set()
    bases = {lowest for top in tops for *_, lowest in (tuple(directory.chain(top)),)}
    known = had | {layer for top in tops for layer in directory.chain(top)}
    near = set(directory.names())
    for base in {beside(base, ""): base for base in bases if in_volume(base)}.values():
        near |= set(directory.names_beside(base))
    strays = {name for name in near if _DELTA.fullmatch(name)}
    for top in sorted(tops | strays | had):
        chain = tuple(directory.known_chain(top))
        if not chain or chain[-1] not in bases:
            continue
        if in_volume(top) and top not in known:
            frozen |= set(chain)
        for name, lower in zip(chain, (*chain[1:], ""), strict=True):
            parents[name] = lower
            if name.endswith(".vmdk"):
                described = disks.describe(directory, name)
                sealed = described.create_type is CreateType.STREAM_OPTIMIZED or described.parts
                if sealed or described.read_only:
                    frozen.add(name)
    return _Graph(parents, frozenset(frozen))


def _rename_in_state(directory: VmDirectory, fact: VmFact, number: int, step: Merge) -> None:
    """Name the lower disk in a snapshot's configuration too."""
    name = state_name(fact.config, number)
    try:
        old = vmx.parse(directory.read(name, VMX_LIMIT))
    except CasemateError:
        return
    entries = tuple(
        (key, step.into if key.lower().endswith(".filename") and value == step.name else value)
        for key, value in old.entries
    )
    directory.write(name, vmx.write(Vmx(entries)))
