"""Hosts of VMs, and small audit logs, for tests of the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from casemate.kernel import auditlog
from casemate.kernel.store import Store

from .vmbench import Host


@pytest.fixture
def vmhost(root_only: None, tmp_path: Path) -> Iterator[Host]:  # noqa: ARG001 (asked for its skip)
    if not Path("/usr/bin/qemu-system-x86_64").exists():
        pytest.skip("needs QEMU: /usr/bin/qemu-system-x86_64")
    host = Host(tmp_path)
    yield host
    left = host.left_behind()
    for name in host.cgroups.names():
        host.cgroups.remove(name)
    host.cgroups.close()
    assert left == []


@pytest.fixture
def on(vmhost: Host) -> Callable[[Callable[[Host], Coroutine[Any, Any, None]]], None]:
    """Run a coroutine function with a host that is up, to its end, with a time limit."""

    def runner(body: Callable[[Host], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            async with vmhost.up() as host:
                await body(host)

        asyncio.run(asyncio.wait_for(whole(), 280))

    return runner


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store that keeps 40 entries, or 20 that are old, and looks at every fourth."""
    for name, value in (("ROWS", 40), ("KEPT", 20), ("SECONDS", 1000.0), ("PRUNED", 4)):
        monkeypatch.setattr(auditlog, name, value)
    store = Store(tmp_path / "casemate.db")
    # Hundreds of entries: that each is on the disk is not what is looked at here.
    store._db.execute("PRAGMA synchronous=OFF")
    yield store
    store.close()
