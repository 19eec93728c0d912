"""Removes what a kernel has left that was killed while it saved a memory or took a snapshot.

A memory counts once a VM's own file or its list of snapshots names it, which is written last. One
that nothing names is never resumed from; it is as large as the guest and is removed. A snapshot
counts once the list names it; of one that was cut off, or of going back to one, go the deltas that
nothing names, wherever the disks are that they are above.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from typing import Final

from casemate.errors import CasemateError
from casemate.formats import qcow2, vmdk, vmx
from casemate.formats.datastorepath import beside, in_volume
from casemate.kernel.cells import disks, memory
from casemate.kernel.cells.directory import VmDirectory, delta_stem
from casemate.kernel.elsewhere import used_by_others
from casemate.kernel.inventory import VMX_LIMIT
from casemate.kernel.snapshotfiles import check_book, last_number, written
from casemate.kernel.vmcontext import SUSPENDED, VmContext, stem
from casemate.kernel.vmfiles import known_files, named_files, owned_files, state_name
from casemate.machine.facts import DiskSpec, VmFact
from casemate.machine.vmconfig import REDO, vm_config

_SAVED: Final = re.compile(rf"-(?:[0-9a-f]{{8}}{re.escape(SUSPENDED)}|Snapshot[0-9]+\.vmem)")
_log = logging.getLogger(__name__)


def tidy(context: VmContext) -> None:
    """Remove what of all VMs nothing names. Before anything else is done with them."""
    for fact in context.inventory.vms():
        try:
            with context.open(fact) as directory:
                # Most VMs have none; to look for neighbours takes a while.
                if saved := _saved(directory, fact):
                    for name in _unnamed(directory, saved, (fact, *context.neighbours(fact))):
                        directory.remove(name)
                        _log.warning(
                            "%s: %s was not saved to its end and is removed", fact.config.name, name
                        )
                for name in _cut_off(context, directory, fact):
                    directory.remove(name)
                    _log.warning(
                        "%s: %s is of a snapshot that was cut off and is removed",
                        fact.config.name,
                        name,
                    )
        except (CasemateError, OSError) as error:
            _log.warning("the files of %s are not looked through: %s", fact.config.name, error)


def _saved(directory: VmDirectory, fact: VmFact) -> tuple[str, ...]:
    """Return the files that by their names hold memory of a VM."""
    begin = stem(fact.config)
    return tuple(
        name
        for name in directory.names()
        if name.startswith(begin) and _SAVED.fullmatch(name, len(begin))
    )


def _unnamed(
    directory: VmDirectory, saved: tuple[str, ...], known: tuple[VmFact, ...]
) -> tuple[str, ...]:
    """Return those that were not saved to their end, and what belongs to them.

    Raises:
        CasemateError: What the VMs of the directory need cannot be told.
    """
    # Other makers name another part of what belongs together: the beginnings count.
    needed = named_files(directory, ())
    for one in known:
        check_book(directory, one)
        needed |= known_files(directory, one)
    roots = {name.rpartition(".")[0] for name in needed}
    gone = [name for name in saved if name.rpartition(".")[0] not in roots]
    gone = [name for name in gone if _is_ours(directory, name)]
    begins = tuple(f"{name.rpartition('.')[0]}-" for name in gone)
    scratch = [n for n in directory.names() if n.startswith(begins) and n.endswith(REDO)]
    return (*gone, *scratch)


def _cut_off(context: VmContext, directory: VmDirectory, fact: VmFact) -> tuple[str, ...]:
    """Return the files of a snapshot that was begun, or gone back to, and is not in the list.

    Raises:
        CasemateError: What the VM or others need cannot be told.
    """
    check_book(directory, fact)
    # Written before anything else.
    state = state_name(fact.config, last_number(directory, fact) + 1)
    if not directory.exists(state):
        return ()
    begun = vm_config(vmx.parse(directory.read(state, VMX_LIMIT)), fact.config.vmx_path)
    found = [name for disk in written(begun) for name in _blank_deltas(directory, disk)]
    needed = owned_files(directory, fact) | used_by_others(context, fact)
    return tuple(name for name in (*found, state) if name not in needed)


def _blank_deltas(directory: VmDirectory, disk: DiskSpec) -> Iterator[str]:
    """Yield the files of deltas above a disk that were made, maybe in part, and never written."""
    source = disks.resolve(directory, (disk,))[0]
    beginning = delta_stem(disk.file_name)
    form = re.compile(rf"{re.escape(beginning)}-([0-9]{{6}})(?:\.vmdk|-delta\.qcow2)")
    near = directory.names_beside(beginning) if in_volume(beginning) else directory.names()
    numbers = sorted({found[1] for name in near if (found := form.fullmatch(name))})
    image = bytearray()
    for offset, data in qcow2.empty(source.disk.capacity):
        image += bytes(offset - len(image)) + data
    for number in numbers:
        name = f"{beginning}-{number}.vmdk"
        described = directory.delta_of(source, name)
        whole = {beside(name, described.extent): bytes(image), name: vmdk.write(described)}
        if all(_begins(directory, *one) for one in whole.items()):
            yield from (one for one in whole if directory.exists(one))


def _begins(directory: VmDirectory, name: str, whole: bytes) -> bool:
    """Tell whether a file has a beginning of ``whole`` and nothing else, or there is none."""
    return not directory.exists(name) or whole.startswith(directory.read(name, len(whole)))


def _is_ours(directory: VmDirectory, name: str) -> bool:
    """Tell whether a file begins as the memory that QEMU writes, as far as it goes."""
    handle = directory.open_file(name)
    try:
        begin = os.pread(handle, len(memory.MAGIC), 0)
    finally:
        os.close(handle)
    return memory.MAGIC.startswith(begin)
