"""The image of a host, built from this machine's packages and entered as the only root."""

from __future__ import annotations

import filecmp
import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from casemate.formats.elf import parse_elf
from casemate.image.build import build_image
from casemate.image.debian import Packages
from casemate.image.files import Form, exactly_one
from casemate.image.host import system_recipes
from casemate.image.tree import ELF_MAGIC, File, Link
from casemate.policy.hardening import Outcome, Weight, check
from casemate.policy.levels import Level

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("root_only")]
VISOR = Path(__file__).with_name("visor.py")
NOW = datetime(2026, 11, 22, tzinfo=UTC)
LIBRARY_PATH = "usr/lib/x86_64-linux-gnu"


def inside(image, *command):
    """Run a program with the image as its root, without a way to gain executable memory."""
    enter = ("unshare", "--mount", "--pid", "--fork", "--kill-child", sys.executable, str(VISOR))
    result = subprocess.run(
        [*enter, str(image.bank), *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def unpacked(recipe, payload, place):
    """Unpack a payload; fsck.erofs checks the image as well."""
    target = place / recipe.name
    command = ["fsck.erofs", f"--extract={target}", "--preserve", str(payload.path)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return target


@pytest.fixture(scope="module")
def roots(whole_image, tmp_path_factory):
    place = tmp_path_factory.mktemp("roots")
    found = {
        recipe.name: unpacked(recipe, payload, place)
        for recipe, payload in whole_image.payloads
        if recipe.form is Form.LAYER
    }
    yield found
    for entry in place.rglob("*"):
        if entry.is_dir() and not entry.is_symlink():
            entry.chmod(0o755)


def test_the_whole_image_built_twice_has_the_same_bytes(whole_image, host_plan, made_pki, tmp_path):
    home = tmp_path / "another" / "home"
    shutil.copytree(made_pki, home)
    again = build_image(home, tmp_path / "out", now=NOW, plan=host_plan)
    assert again.build == whole_image.build
    for first, second in zip(whole_image.vibs, again.vibs, strict=True):
        assert filecmp.cmp(first.path, second.path, shallow=False), first.path.name
    names = sorted(path.name for path in whole_image.bank.iterdir())
    assert filecmp.cmpfiles(whole_image.bank, again.bank, names, shallow=False)[0] == names


def test_what_is_compiled_and_stripped_here_has_the_same_bytes_every_time(tmp_path):
    for name in ("one", "another-longer-place"):
        (tmp_path / name).mkdir()
    one, another = (
        [recipe.nodes for recipe in system_recipes(Packages(), tmp_path / name)]
        for name in ("one", "another-longer-place")
    )
    assert one == another


def test_a_second_build_changes_nothing_and_uses_the_cache(whole_image, host_plan):
    home = whole_image.bank.parent
    again = build_image(home, home / "vibs", now=NOW, plan=host_plan)
    assert all(payload.cached for _, payload in again.payloads)
    assert not again.written


def test_every_file_is_in_exactly_one_vib_as_its_descriptor_says(whole_image, roots):
    exactly_one(recipe for recipe, _ in whole_image.payloads)
    seen = {}
    for recipe, payload in whole_image.payloads:
        if recipe.form is Form.ZIP:
            continue
        root = roots[recipe.name]
        present = {
            str(entry.relative_to(root))
            for entry in root.rglob("*")
            if entry.is_symlink() or not entry.is_dir()
        }
        assert present == set(payload.files)
        for path in present:
            assert seen.setdefault(path, recipe.name) == recipe.name


def test_symlinks_are_kept(whole_image, roots):
    for recipe, _ in whole_image.payloads:
        for path, node in recipe.nodes.items():
            if isinstance(node, Link):
                assert str((roots[recipe.name] / path).readlink()) == node.target


def test_nothing_is_setuid_writable_special_or_owned_by_anybody(roots):
    for root in roots.values():
        for entry in root.rglob("*"):
            status = entry.lstat()
            assert (status.st_uid, status.st_gid) == (0, 0)
            if not entry.is_symlink():
                assert stat.S_IMODE(status.st_mode) in {0o444, 0o555}
                assert entry.is_dir() or entry.is_file()


def test_no_place_of_this_machine_is_in_the_bytes(whole_image, roots):
    home = str(whole_image.bank.parent).encode()
    environment = str(Path(sys.prefix)).encode()
    for root in roots.values():
        for entry in root.rglob("*"):
            if entry.is_file() and not entry.is_symlink():
                content = entry.read_bytes()
                assert home not in content, entry
                assert environment not in content, entry


def test_every_program_and_library_is_hardened(whole_image):
    weak, seen = [], 0
    for recipe, _ in whole_image.payloads:
        for path, node in recipe.nodes.items():
            if isinstance(node, File) and (data := node.read()).startswith(ELF_MAGIC):
                seen += 1
                report = check(parse_elf(data), path, Level(recipe.level))
                weak += [
                    f"{path}: {result.reason}"
                    for result in report.results
                    if result.outcome is Outcome.FAILED and result.weight is Weight.REQUIRED
                ]
    assert seen > 100
    assert not weak


def test_dependencies_are_those_of_the_programs(whole_image):
    needs = {recipe.name: recipe.requires for recipe, _ in whole_image.payloads}
    assert needs["casemate-boot"] == needs["base-libs"] == frozenset()
    assert needs["swtpm"] == {"base-libs"}
    assert needs["qemu"] == {"base-libs", "firmware"}
    assert needs["python"] == {"base-libs"}
    assert needs["python-libs"] == {"base-libs", "python"}


def test_the_host_s_python_runs_from_its_image_alone(whole_image):
    modules = "casemate.kernel, casemate.hostd, cryptography, tpm2_pytss, cbor2, qemu.qmp"
    code = (
        f"import {modules}, starlette, uvicorn, jinja2, jwt, pyVmomi, argon2, pyseccomp\n"
        "import ssl, sqlite3, sys\n"
        "from cryptography.hazmat.primitives.asymmetric import rsa\n"
        "print(sys.executable, sys.flags.isolated, casemate.kernel.__cached__)"
    )
    said = inside(whole_image, "/usr/bin/casemate-python", "-I", "-c", code).split()
    package = "/usr/lib/python3/dist-packages/casemate/kernel/__pycache__"
    assert said == ["/usr/bin/casemate-python", "1", f"{package}/__init__.cpython-311.pyc"]


def test_the_host_s_python_lies_at_another_address_each_time(whole_image):
    code = "print(open('/proc/self/maps').readline().split('-')[0])"
    places = {
        inside(whole_image, "/usr/bin/casemate-python", "-I", "-S", "-c", code) for _ in range(4)
    }
    assert len(places) == 4


def test_every_module_is_found_compiled(roots):
    for name in ("python", "python-libs", "casemate-kernel", "casemate-hostd"):
        for source in roots[name].rglob("*.py"):
            compiled = source.parent / "__pycache__" / f"{source.stem}.cpython-311.pyc"
            assert compiled.is_file(), source


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("/usr/bin/qemu-system-x86_64", "-version"), "QEMU emulator version"),
        (("/usr/bin/qemu-system-x86_64", "-accel", "help"), "tcg"),
        (("/usr/bin/qemu-img", "--version"), "qemu-img version"),
        (("/usr/bin/swtpm", "--version"), "TPM emulator version"),
    ],
)
def test_the_host_s_programs_run_from_its_image_alone(whole_image, command, words):
    assert words in inside(whole_image, *command)


def test_names_of_accounts_are_known_inside(whole_image):
    code = "import pwd, grp; print(pwd.getpwuid(64000)[0], grp.getgrgid(64001)[0])"
    python = ("/usr/bin/casemate-python", "-I", "-c", code)
    assert inside(whole_image, *python).split() == ["hostd", "tpm"]


def test_libraries_lie_only_where_the_linker_looks(roots):
    assert not (roots["base-libs"] / "etc/ld.so.cache").exists()
    assert (roots["base-libs"] / LIBRARY_PATH / "libc.so.6").is_file()
