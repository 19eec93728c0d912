"""A home with a small bootable image, for tests of what changes software: real VIBs, tiny payloads.

No payload can be mounted, so ``FakeLayers`` stands in for what mounts them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from casemate.errors import HostError
from casemate.formats.bootcfg import BootCfg, BootModule, BootState, write_bootcfg
from casemate.formats.compressed import gzip
from casemate.formats.descriptor import Descriptor, write_descriptor
from casemate.formats.imgdb import DbVib, ImageDb, ImageProfile, write_imgdb
from casemate.formats.tarball import TarEntry
from casemate.formats.tarwrite import write_tar
from casemate.formats.vib import parse_vib, write_vib
from casemate.kernel.boot.layers import LayerFact
from casemate.kernel.home import Home
from casemate.policy.levels import Level
from casemate.policy.vibcontent import judge_archive
from casemate.testing.pki import MADE, shared_pki
from casemate.testing.vibs import announce, make_descriptor

BASE = {"casemate-boot": ("b", "b.b00"), "casemate-kernel": ("k", "k.b00")}


def base_vib(name: str, version: str = "1.0-1") -> bytes:
    """Return a VIB of the base image."""
    payload, content = BASE[name][0], f"{name} {version}".encode() * 50
    descriptor = replace(
        make_descriptor("certified", {}, name=name, version=version),
        payloads=(announce(payload, content, "boot"),),
    )
    return _signed(descriptor, {payload: content}, "certified")


def driver(
    name: str = "driver",
    version: str = "1.0-1",
    level: str = "partner",
    *,
    files: Mapping[str, bytes] | None = None,
    listed: tuple[str, ...] | None = None,
    sign: bool = True,
    **changes: Any,  # noqa: ANN401 (the fields of Descriptor)
) -> bytes:
    """Return a VIB with one tgz payload that holds ``files``; its list says ``listed``.

    ``changes`` replace fields of its descriptor.
    """
    content = {f"opt/{name}/code": f"{name} {version}".encode()} if files is None else files
    data = gzip(write_tar(TarEntry(path, data=body) for path, body in content.items()))
    payload = name.replace("-", "")[:8]
    descriptor = replace(
        make_descriptor(level, {}, name=name, version=version),
        files=tuple(content) if listed is None else listed,
        payloads=(announce(payload, data),),
    )
    descriptor = replace(descriptor, **changes)
    return _signed(descriptor, {payload: data}, level if sign else "")


def _signed(descriptor: Descriptor, payloads: Mapping[str, bytes], level: str) -> bytes:
    content = write_descriptor(descriptor)
    signature = shared_pki().sign(content, level) if level else b""
    return write_vib(content, signature, payloads.items())


def make_home(place: Path, vibs: Sequence[bytes] = (), level: str = "partner") -> Home:
    """Return a home whose first bank holds the base and these VIBs, and runs."""
    home = Home(place)
    home.create()
    for name, ca in shared_pki().issuers.items():
        (home.trust / name).mkdir(parents=True, exist_ok=True)
        (home.trust / name / "ca.pem").write_bytes(ca.pem)
    parsed = [parse_vib(data) for data in (*map(base_vib, BASE), *vibs)]
    listed = []
    for vib in parsed:
        known = BASE.get(vib.descriptor.name)
        files = {name: known[1] if known else f"{name}.v00" for name in vib.payloads}
        for name, file in files.items():
            (home.banks[0] / file).write_bytes(vib.payloads[name])
        listed.append(DbVib(vib.descriptor_bytes, vib.signature, files))
    ids = tuple(vib.descriptor.vib_id for vib in parsed)
    profile = ImageProfile("Small", "Tests", Level(level), MADE, ids)
    (home.banks[0] / "imgdb.tgz").write_bytes(write_imgdb(ImageDb(profile, tuple(listed))))
    names = [name for vib in listed for name in vib.files.values()]
    config = BootCfg(
        "b.b00",
        tuple(BootModule(name) for name in (*names[1:], "imgdb.tgz")),
        build="1.0-0",
        updated=1,
        bootstate=BootState.VALID,
    )
    (home.banks[0] / "boot.cfg").write_bytes(write_bootcfg(config))
    return home


@dataclass
class FakeLayers:
    """Mounts nothing, but keeps account: which payload is staged, which is live, in which order.

    ``failing`` names a step (``stage``, ``switch``) that Linux refuses.
    """

    live: dict[str, bytes] = field(default_factory=dict)
    staged: dict[str, bytes] = field(default_factory=dict)
    failing: str = ""
    undone: bool = False

    def inspect(
        self, kind: str, image: bytes | memoryview, descriptor: Descriptor, level: Level
    ) -> tuple[str, ...]:
        """Return what an archive holds; of an EROFS image, what the descriptor lists."""
        if kind == "erofs":
            return descriptor.files
        return judge_archive(kind, image, descriptor, level)

    def stage(self, name: str, sealed: int, _kind: str) -> None:
        """Keep the content."""
        self._step("stage")
        self.staged[name] = os.pread(sealed, os.fstat(sealed).st_size, 0)

    def discard(self) -> None:
        """Forget what is staged."""
        self.staged.clear()

    def prepare(self, _names: Sequence[str]) -> None:
        """Begin."""
        self._step("prepare")

    def recover(self) -> bool:
        """Tell what the test says."""
        return self.undone

    def facts(self) -> tuple[LayerFact, ...]:
        """Tell of none: nothing is mounted."""
        return ()

    def switch(self, names: Sequence[str]) -> None:
        """Make these live: staged ones, else those that were."""
        self._step("switch")
        known = self.live | self.staged
        self.live = {name: known[name] for name in names}

    def names(self) -> frozenset[str]:
        """Return what is live."""
        return frozenset(self.live)

    def _step(self, name: str) -> None:
        if self.failing == name:
            raise HostError("Linux refuses it.", component=name)


def live_driver(
    version: str = "1.0-1",
    content: bytes = b"",
    name: str = "driver",
    **changes: Any,  # noqa: ANN401 (the fields of Descriptor)
) -> bytes:
    """Return a VIB with one payload of the type erofs that may be installed live."""
    data = content or f"{name} {version}".encode() * 50
    payload = name.replace("-", "")[:8]
    descriptor = replace(
        make_descriptor("partner", {}, name=name, version=version),
        files=(f"opt/{name}/code",),
        payloads=(announce(payload, data, "erofs"),),
        live_install_allowed=True,
        live_remove_allowed=True,
    )
    return _signed(replace(descriptor, **changes), {payload: data}, "partner")
