"""VMs registered as by somebody who may do everything."""

from __future__ import annotations

import asyncio

from casemate.kernel.inventory import Inventory
from casemate.machine.facts import VmConfig, VmFact


def allowed(_fact: VmFact, _config: VmConfig | None = None) -> None:
    """Allow every VM, and whatever it is to have."""


async def come(inventory: Inventory, path: str) -> str:
    """Register the VM of a file and return its id."""
    return await inventory.register(path, allow=allowed)


def registered(inventory: Inventory, path: str) -> str:
    """Register the VM of a file where no event loop runs, and return its id."""
    return asyncio.run(come(inventory, path))
