"""Live layers: joined to the visor root for what starts later, and never half switched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.kernel.sys.test_mounts import devices_are_free, image, sealed

from casemate.errors import FormatError, HostError
from casemate.formats.compressed import gzip
from casemate.formats.tarball import TarEntry
from casemate.formats.tarwrite import write_tar
from casemate.kernel.layers import Layers
from casemate.kernel.roots import newest_root
from casemate.kernel.sys import mounts
from casemate.kernel.sys.loops import loop_device
from casemate.kernel.sys.memfd import sealed_bytes

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("root_only")]


def stage(layers: Layers, name: str, file: Path) -> None:
    descriptor = sealed(file)
    layers.stage(name, descriptor, "erofs")
    os.close(descriptor)


def seen(joined: Path) -> dict[str, str]:
    root = newest_root(joined)
    return {one.name: one.read_text() for one in root.iterdir()} if root else {}


def test_a_switch_joins_replaces_and_removes_and_what_runs_keeps_its_root(in_child, tmp_path):
    base = image(tmp_path, "base", {"low": b"low"})
    more = image(tmp_path, "more", {"base": b"bottom"})
    one = image(tmp_path, "one", {"first": b"1"})
    two = image(tmp_path, "two", {"first": b"2", "low": b"hidden"})

    def change() -> list[object]:
        places = [tmp_path / f"{name}.mnt" for name in ("base", "more")]
        for file, place in zip((base, more), places, strict=True):
            place.mkdir()
            descriptor = sealed(file)
            with loop_device(descriptor, place.name) as device:
                mounts.erofs(device, place)
            os.close(descriptor)
        joined = tmp_path / "joined"
        layers = Layers(tuple, tmp_path / "live", joined, lambda: places)
        stage(layers, "one.v00", one)
        told: list[object] = [seen(joined)]
        layers.prepare(["one.v00"])
        layers.switch(["one.v00"])
        told.append(seen(joined))
        inodes = [(one.stat().st_dev, one.stat().st_ino) for one in newest_root(joined).iterdir()]
        assert len(set(inodes)) == len(inodes)
        kept = os.open(newest_root(joined) or "", os.O_RDONLY)
        stage(layers, "one.v00", two)
        layers.prepare(["one.v00"])
        layers.switch(["one.v00"])
        told.append(seen(joined))
        told.append(Path(f"/proc/self/fd/{kept}/first").read_text())
        layers.prepare([])
        layers.switch([])
        told.append((seen(joined), sorted(layers.names())))
        return told

    nothing, first, second, kept, last = in_child(change)
    assert nothing == {}
    assert first == {"low": "low", "base": "bottom", "first": "1"}
    assert second == {"low": "hidden", "base": "bottom", "first": "2"}
    assert kept == "1"
    assert last == ({}, [])
    assert devices_are_free()


@pytest.mark.parametrize("step", ["move", "overlay"])
def test_a_switch_that_linux_refuses_leaves_the_old_mounts(in_child, tmp_path, monkeypatch, step):
    one = image(tmp_path, "one", {"first": b"1"})
    two = image(tmp_path, "two", {"first": b"2"})
    (tmp_path / "visor").mkdir()
    (tmp_path / "visor" / "low").write_text("low")

    def change() -> tuple[object, ...]:
        joined = tmp_path / "joined"
        layers = Layers(tuple, tmp_path / "live", joined, lambda: [tmp_path / "visor"])
        stage(layers, "one.v00", one)
        layers.prepare(["one.v00"])
        layers.switch(["one.v00"])
        stage(layers, "one.v00", two)
        stage(layers, "two.v00", two)
        honest, calls = getattr(mounts, step), []

        def refuse(*arguments: object) -> None:
            calls.append(arguments)
            if step == "overlay" or len(calls) == 3:
                raise HostError("refused")
            honest(*arguments)

        monkeypatch.setattr(mounts, step, refuse)
        layers.prepare(["one.v00", "two.v00"])
        try:
            layers.switch(["one.v00", "two.v00"])
        except HostError as error:
            reason = error.reason
        layers.discard()
        left = sorted(path.name for path in (tmp_path / "live").iterdir() if path.is_mount())
        return reason, left, seen(joined), sorted(layers.names())

    assert in_child(change) == (
        "refused",
        ["one.v00"],
        {"low": "low", "first": "1"},
        ["one.v00"],
    )


def test_an_archive_is_joined_from_its_sealed_bytes_and_a_hostile_one_leaves_nothing(
    in_child, tmp_path
):
    (tmp_path / "visor").mkdir()
    (tmp_path / "visor/low").write_text("low")

    def change() -> list[object]:
        joined = tmp_path / "joined"
        layers = Layers(tuple, tmp_path / "live", joined, lambda: [tmp_path / "visor"])
        good = sealed_bytes(gzip(write_tar([TarEntry("first", data=b"1")])), "good")
        layers.stage("tar.v00", good, "tgz")
        layers.prepare(["tar.v00"])
        layers.switch(["tar.v00"])
        told: list[object] = [seen(joined)]
        try:
            layers.stage("bad.v00", sealed_bytes(gzip(b"text" * 200), "bad"), "vgz")
        except FormatError as error:
            told.append(error.code)
        layers.discard()
        told.append(sorted(layers.names()))
        return told

    assert in_child(change) == [{"low": "low", "first": "1"}, "tar-header", ["tar.v00"]]


CHANGES = {
    "an upgrade": ({"one.v00": "two"}, ["one.v00", "kept.v00"]),
    "one more": ({"more.v00": "two"}, ["one.v00", "kept.v00", "more.v00"]),
    "one less": ({}, ["kept.v00"]),
    "the last ones gone": ({}, []),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_kernel_killed_at_any_step_of_a_switch_leaves_what_the_next_one_makes_whole(
    in_child, tmp_path, name
):
    staged, after = CHANGES[name]
    files = {one: image(tmp_path, one, {one: one.encode()}) for one in ("one", "two", "kept")}
    (tmp_path / "visor").mkdir()
    (tmp_path / "visor" / "low").write_text("low")

    def killed_at(step: int, place: Path) -> tuple[bool, bool, object, object]:
        place.mkdir()

        def made() -> Layers:
            return Layers(tuple, place / "live", place / "joined", lambda: [tmp_path / "visor"])

        layers = made()
        for one in ("one", "kept"):
            stage(layers, f"{one}.v00", files[one])
        layers.prepare(["one.v00", "kept.v00"])
        layers.switch(["one.v00", "kept.v00"])
        if (pid := os.fork()) == 0:
            _switch_and_die(layers, staged, after, files, step)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        again = made()
        undone = again.recover()
        again.discard()
        left = sorted(p.name for p in (place / "live").iterdir() if p.is_dir())
        facts = sorted(fact.name for fact in again.facts())
        return ended, undone, (left, facts, seen(place / "joined")), again.recover()

    def every_step() -> list[object]:
        told: list[object] = []
        for step in range(1, 40):
            told.append(killed_at(step, tmp_path / f"at{step}"))
            if told[-1][0]:
                return told
        return told

    names = {"one.v00": "one", "kept.v00": "kept"}
    before = (sorted(names), sorted(names), {"low": "low", "one": "one", "kept": "kept"})
    becomes = {one: staged.get(one) or names[one] for one in after}
    shown = {"low": "low"} | {one: one for one in becomes.values()} if after else {}
    whole = (sorted(after), sorted(after), shown)
    told = in_child(every_step)
    assert told[-1][0]
    assert len(told) > 3
    for _, undone, state, again in told:
        assert state == (before if undone else whole)
        assert not again
    outcomes = [undone for _, undone, _, _ in told]
    assert outcomes == sorted(outcomes, reverse=True)
    assert True in outcomes


def _switch_and_die(layers, staged, after, files, step):
    """Make a change, and be gone before its n-th step."""
    count = iter(range(1, step + 1))

    def mortal(work):
        def run(*arguments, **named):
            if next(count, step) == step:
                os._exit(9)
            return work(*arguments, **named)

        return run

    for name, kind in staged.items():
        stage(layers, name, files[kind])
    layers.prepare(after)
    for one in ("move", "overlay", "umount"):
        setattr(mounts, one, mortal(getattr(mounts, one)))
    layers.switch(after)
    os._exit(0)
