"""Control groups in a directory, and a QEMU that answers about its balloon."""

from __future__ import annotations

from pathlib import Path

from casemate.kernel.cells.cgroups import Usage
from casemate.machine.cellplan import CgroupTargets


class FakeGroups:
    """Groups as directories of plain files; ``version`` 1 or 2."""

    def __init__(self, place: Path, version: int = 2) -> None:
        self.place = place
        self.version = version

    def make(self, name: str) -> Path:
        """Make a group that has used nothing yet."""
        group = self.place / name
        group.mkdir(parents=True)
        for place in (self.place, group):
            for file in ("cpu.weight", "cpu.shares", "cpu.max", "cpu.cfs_quota_us"):
                (place / file).write_text("")
            for file in ("memory.min", "memory.low", "memory.max"):
                (place / file).write_text("")
        self.use(name)
        return group

    def use(
        self, name: str, *, cpu: float = 0.0, held: int = 0, throttled: float = 0.0, pids: str = ""
    ) -> None:
        """Set what a group has used: seconds and bytes."""
        group = self.place / name
        self_throttled = (
            f"throttled_time {int(throttled * 1e9)}"
            if self.version == 1
            else f"throttled_usec {int(throttled * 1e6)}"
        )
        (group / "cpu.stat").write_text(f"usage_usec {int(cpu * 1e6)}\n{self_throttled}\n")
        kind = "rss" if self.version == 1 else "anon"
        (group / "memory.stat").write_text(f"cache 99\n{kind} {held}\nshmem 0\n")
        (group / "cgroup.procs").write_text(pids)

    def create(self, name: str, targets: CgroupTargets) -> None:  # noqa: ARG002 (the real one's)
        self.make(name)

    def set_targets(self, name: str, targets: CgroupTargets) -> None:
        """Not what scheduling uses."""
        raise NotImplementedError

    def directories(self, name: str) -> tuple[Path, ...]:
        return (self.place / name,)

    def usage(self, name: str) -> Usage:
        lines = (self.place / name / "cpu.stat").read_text().split()
        return Usage(int(lines[1]) / 1e6, 0, 1)

    def names(self) -> frozenset[str]:
        return frozenset(place.name for place in self.place.iterdir() if place.is_dir())

    def remove(self, name: str) -> None:
        for file in (self.place / name).iterdir():
            file.unlink()
        (self.place / name).rmdir()

    def close(self) -> None:
        """Nothing is left."""


class FakeQmp:
    """One QEMU: answers what is in ``answers``, remembers the target it was given."""

    def __init__(self) -> None:
        self.target = 0
        self.answers: dict[str, object] = {
            "qom-list": [{"name": "device[3]", "type": "child<virtio-balloon-pci>"}],
            "qom-set": {},
            "query-balloon": {"actual": 1 << 30},
            "qom-get": {"stats": {}, "last-update": 0},
            "balloon": {},
        }

    async def execute(self, command: str, **arguments: object) -> object:
        if command == "balloon":
            value = arguments["value"]
            assert isinstance(value, int)
            self.target = value
        return self.answers[command]
