"""The end of a cell, while others notice that its connection is gone."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from casemate.errors import HostError
from casemate.kernel.cells.cell import Cell
from casemate.kernel.cells.runstate import RunState


class LostQmp:
    """A connection whose other end is gone; what it had sent takes a while to be handled."""

    connected = False

    def __init__(self) -> None:
        self.draining, self.drained = asyncio.Event(), asyncio.Event()

    async def drain(self) -> None:
        self.draining.set()
        await self.drained.wait()

    async def close(self) -> None:
        await asyncio.sleep(0)


def test_who_asks_for_the_connection_while_a_cell_ends_does_not_disturb_its_end(
    tmp_path: Path,
) -> None:
    async def story(child: subprocess.Popen[bytes]) -> None:
        state = RunState("1", child.pid, 0, "", 0, "tcg", "", 0.0)
        logs = (tmp_path / "log", tmp_path / "console")
        pidfd = os.pidfd_open(child.pid)
        cell = Cell(state, pidfd, tmp_path, logs, on_event=lambda _: None)
        lost = LostQmp()
        cell._qmp = lost
        child.kill()
        await asyncio.wait_for(cell.ended.wait(), 60)
        end = asyncio.create_task(cell.detach())
        await lost.draining.wait()
        asked = asyncio.create_task(cell.qmp())
        await asyncio.sleep(0.05)
        lost.drained.set()
        await asyncio.wait_for(end, 60)
        with pytest.raises(HostError) as raised:
            await asyncio.wait_for(asked, 60)
        assert raised.value.code == "cell-ended"

    with subprocess.Popen(["/bin/sleep", "300"]) as child:
        asyncio.run(story(child))
