"""What of a machine's image can be run at all: the list is short and known."""

from __future__ import annotations

from pathlib import Path

import pytest

from casemate.image.debian import Packages
from casemate.image.files import Form, Recipe
from casemate.image.linux import linux_recipes
from casemate.image.tree import ELF_MAGIC, File

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("root_only")]

PROGRAMS = {
    "usr/bin/casemate-python",
    "usr/bin/qemu-img",
    "usr/bin/qemu-system-x86_64",
    "usr/bin/swtpm",
}
"""Everything that Linux runs by itself: no shell, no compiler, no package manager, no tool."""


def test_the_programs_of_a_machine_are_known_by_name(host_plan: tuple[Recipe, ...]) -> None:
    found = set()
    for recipe in (*host_plan, *linux_recipes(Packages())):
        if recipe.form is not Form.LAYER:
            continue
        for path, node in recipe.nodes.items():
            if not isinstance(node, File) or Path(path).suffix in {".py", ".ko"}:
                continue
            start = node.read()[:4]
            library = ".so" in Path(path).name
            if start[:2] == b"#!" or (start == ELF_MAGIC and node.executable and not library):
                found.add(path)
    assert found == PROGRAMS


def test_scripts_in_the_image_name_interpreters_that_are_not_there(
    host_plan: tuple[Recipe, ...],
) -> None:
    """Python's own modules begin with the line of a script; nothing could run them."""
    paths = {path for recipe in host_plan for path in recipe.nodes}
    for recipe in host_plan:
        for path, node in recipe.nodes.items():
            if isinstance(node, File) and (line := node.read().split(b"\n", 1)[0])[:2] == b"#!":
                interpreter = line[2:].split()[0].decode().lstrip("/")
                assert interpreter not in paths, path
