"""The parts of a machine that boots by itself, without booting one."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path, PurePosixPath

import pytest
from tests.image.conftest import MADE

from casemate.formats.modinfo import ModuleInfo
from casemate.image.disk import Layout, offset_of, replace_files, write_disk
from casemate.image.host import sources
from casemate.image.initrd import LOADER, THIRD_PARTY_USED, UNUSED, UNUSED_EXTENSIONS
from casemate.image.linux import EARLY, Kernel, Module, index
from casemate.image.modules import closure
from casemate.image.pki import initialise_secure_boot, load_boot_signer
from casemate.image.secureboot import OWNER, key_variables
from casemate.image.tools import run

SMALL = Layout(efi=64, bank=40, datastore=8)


def loader_imports() -> set[str]:
    """Return what the loader's modules import of others, as dotted names."""
    own = dict(sources())
    names: set[str] = set()
    for path in closure(LOADER, own):
        for node in ast.walk(ast.parse(own[path])):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names.add(node.module)
    return {name for name in names if name.partition(".")[0] != "casemate"}


def test_the_first_root_brings_whatever_the_loader_imports() -> None:
    others = {name.partition(".")[0] for name in loader_imports()} - sys.stdlib_module_names
    assert others <= set(THIRD_PARTY_USED)
    for name in loader_imports():
        path = name.replace(".", "/")
        places = {path, f"{path}.py", *(str(one) for one in PurePosixPath(path).parents)}
        assert not places & UNUSED, name
        assert not f"_{name}".startswith(UNUSED_EXTENSIONS), name


def test_the_loader_of_a_machine_brings_no_embedded_tpm_and_no_confinement() -> None:
    """Every line in the first root is trusted before anything is verified: less is better."""
    paths = closure(LOADER, dict(sources()))
    assert not {path for path in paths if "swtpm" in path or "confine" in path}


class FakeKernel(Kernel):
    """A kernel with the modules given as name to needs."""

    def __init__(self, modules: dict[str, tuple[str, ...]]) -> None:
        self._modules = {
            name: Module(f"m/{name}.ko", b"", ModuleInfo(name, needs, (f"pci:{name}", "fs-x"), ""))
            for name, needs in modules.items()
        }

    def module(self, name: str) -> Module | None:
        return self._modules.get(name)


def test_needed_modules_come_before_those_that_need_them() -> None:
    kernel = FakeKernel(
        {"net": ("ring", "fail-over"), "ring": ("core",), "core": (), "fail_over": ()}
    )
    order = list(kernel.closure(["net", "built_in", "net"]))
    assert order == ["core", "ring", "fail_over", "net"]
    facts = json.loads(index(kernel.closure(["net"])))
    assert facts["net"]["depends"] == ["ring", "fail_over"]
    assert facts["net"]["aliases"] == ["pci:net"]
    assert len(set(EARLY)) == len(EARLY)


def test_secure_boot_keys_are_made_once_and_the_signer_is_below_db(tmp_path: Path) -> None:
    assert initialise_secure_boot(tmp_path, now=MADE)
    before = load_boot_signer(tmp_path)
    assert not initialise_secure_boot(tmp_path, now=MADE)
    after = load_boot_signer(tmp_path)
    assert after.certificate == before.certificate
    after.certificate.verify_directly_issued_by(after.chain[0])
    variables = {one.name: one for one in key_variables(tmp_path, MADE)}
    assert set(variables) == {"PK", "KEK", "db"}
    assert OWNER.bytes_le in variables["db"].data
    assert (tmp_path / "pki" / "secureboot-pk.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.host
def test_a_disk_is_the_same_twice_and_holds_what_was_put_there(tmp_path: Path) -> None:
    bank = tmp_path / "bank"
    bank.mkdir()
    (bank / "boot.cfg").write_bytes(b"bootstate=0\n")
    (bank / "k.b00").write_bytes(bytes(range(256)) * 100)
    disks = [tmp_path / "one.img", tmp_path / "two.img"]
    for disk in disks:
        write_disk(disk, b"MZ boot image", bank, tmp_path, SMALL)
    assert disks[0].read_bytes() == disks[1].read_bytes()
    drive = f"{disks[0]}@@{offset_of(disks[0], 'bootbank')}"
    assert run("mcopy", "-i", drive, "::k.b00", "-") == (bank / "k.b00").read_bytes()
    changed = tmp_path / "changed"
    changed.write_bytes(b"changed")
    replace_files(disks[0], "bootbank", {"k.b00": changed})
    assert run("mcopy", "-i", drive, "::k.b00", "-") == b"changed"
    assert disks[0].stat().st_blocks * 512 < disks[0].stat().st_size / 4
