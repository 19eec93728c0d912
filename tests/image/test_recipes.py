"""What goes where: every source in its VIB, and no VIB that lacks what it imports."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest

from casemate.formats.bootcfg import check_file_name
from casemate.image import accounts
from casemate.image.files import exactly_one
from casemate.image.host import project_recipes, sources
from casemate.image.modules import imported, module_name
from casemate.image.profile import BOOT_ORDER, LOADER
from casemate.image.runtime import THIRD_PARTY, closure
from casemate.kernel import home

SOURCES = dict(sources())
RECIPES = {recipe.name: recipe for recipe in project_recipes()}
BUILDING_ONLY = ("image/", "cli/", "verifier/", "testing/")


def modules_of(*names: str) -> dict[str, bytes]:
    """Return dotted module names and sources of VIBs."""
    found = {}
    for name in names:
        for path, node in RECIPES[name].nodes.items():
            if path.endswith(".py"):
                relative = path.removeprefix(f"{THIRD_PARTY}/")
                dotted = ".".join(PurePosixPath(relative).with_suffix("").parts)
                found[dotted.removesuffix(".__init__")] = node.read()
    return found


@pytest.mark.parametrize(
    "names",
    [("casemate-boot",), ("casemate-kernel",), ("casemate-kernel", "casemate-hostd")],
)
def test_a_vib_brings_everything_of_this_project_that_it_imports(names):
    present = modules_of(*names)
    known = {module_name(path) for path in SOURCES}
    lacking = {
        f"{module} needs {needed}"
        for module, source in present.items()
        for needed in imported(source)
        if needed in known and needed not in present
    }
    assert not lacking


def test_every_source_of_a_running_host_is_in_exactly_one_vib():
    owner = exactly_one(RECIPES.values())
    installed = {path.removeprefix(f"{THIRD_PARTY}/casemate/") for path in owner}
    wanted = {path for path in SOURCES if not path.startswith(BUILDING_ONLY) and path != "py.typed"}
    assert installed == wanted


def test_tools_that_build_or_attack_are_not_on_a_host():
    installed = [path for recipe in RECIPES.values() for path in recipe.nodes]
    assert not [path for path in installed if re.search(r"casemate/(image|cli|testing)/", path)]


def test_boot_files_have_names_that_a_fat_bank_can_hold():
    names = [LOADER, *BOOT_ORDER]
    for name in names:
        check_file_name(name)
    assert len(set(names)) == len(names)


def test_image_and_kernel_agree_on_accounts():
    assert accounts.HOSTD_UID == home.HOSTD_UID
    assert accounts.TPM_UID == home.TPM_UID


def test_accounts_are_locked_distinct_and_complete():
    nodes = {node.path: node for node in accounts.skeleton("1.0")}
    lines = nodes["etc/passwd"].read().decode().splitlines()
    rows = [line.split(":") for line in lines]
    assert len({row[0] for row in rows}) == len({row[2] for row in rows}) == len(rows)
    assert all(row[1] == "x" and row[6] == accounts.NO_SHELL for row in rows)
    assert {int(row[2]) for row in rows} >= {0, 64000, 64001}
    groups = nodes["etc/group"].read().decode().splitlines()
    assert [line.split(":")[0] for line in groups] == [row[0] for row in rows]


def test_the_command_line_s_requirements_stay_outside():
    names = {distribution.metadata["Name"].lower() for distribution in closure("casemate")}
    assert {"cryptography", "cffi", "starlette", "anyio", "h11", "pyvmomi"} <= names
    assert not names & {"rich", "pygments", "pytest", "casemate"}


def test_the_loader_is_small():
    loader = modules_of("casemate-boot")
    assert "casemate.kernel.boot.stage" in loader
    assert not [name for name in loader if re.match(r"casemate\.(vim25|hostd|sched|ui)\b", name)]
