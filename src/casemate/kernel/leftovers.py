"""Removes what a kernel that was killed while it saved a guest's memory has left.

A memory counts once a VM's own file or its list of snapshots names it, which is written last. One
that nothing names is never resumed from; it is as large as the guest and is removed.
"""

from __future__ import annotations

import logging
import os
import re
from typing import Final

from casemate.errors import CasemateError
from casemate.kernel.cells import memory
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.snapshotfiles import check_book
from casemate.kernel.vmcontext import SUSPENDED, VmContext, stem
from casemate.kernel.vmfiles import named_files, owned_files
from casemate.machine.facts import VmFact
from casemate.machine.vmconfig import REDO

_SAVED: Final = re.compile(rf"-(?:[0-9a-f]{{8}}{re.escape(SUSPENDED)}|Snapshot[0-9]+\.vmem)")
_log = logging.getLogger(__name__)


def tidy(context: VmContext) -> None:
    """Remove the memory of all VMs that nothing names. Before anything else is done with them."""
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
        needed |= owned_files(directory, one)
    roots = {name.rpartition(".")[0] for name in needed}
    gone = [name for name in saved if name.rpartition(".")[0] not in roots]
    gone = [name for name in gone if _is_ours(directory, name)]
    begins = tuple(f"{name.rpartition('.')[0]}-" for name in gone)
    scratch = [n for n in directory.names() if n.startswith(begins) and n.endswith(REDO)]
    return (*gone, *scratch)


def _is_ours(directory: VmDirectory, name: str) -> bool:
    """Tell whether a file begins as the memory that QEMU writes, as far as it goes."""
    handle = directory.open_file(name)
    try:
        begin = os.pread(handle, len(memory.MAGIC), 0)
    finally:
        os.close(handle)
    return memory.MAGIC.startswith(begin)
