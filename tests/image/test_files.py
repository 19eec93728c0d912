from __future__ import annotations

import pytest

from casemate.errors import ArgumentError, FormatError, HostError
from casemate.image.files import Form, Recipe, assign, exactly_one
from casemate.image.tree import File, by_path
from casemate.testing.elves import Elf

LIB = "usr/lib/x86_64-linux-gnu"


def recipe(name, *nodes, **more):
    return Recipe(name, f"{name}.v00", "1.0-1", "", "", "accepted", by_path(nodes), **more)


def program(path, *needed, **more):
    return File(path, Elf(needed=needed, **more).build(), executable=True)


@pytest.fixture
def host(debian):
    return debian(
        {
            "libc6": {f"{LIB}/libc.so.6": Elf(needed=()).build()},
            "glib": {
                f"{LIB}/libglib.so.0": "libglib.so.0.7",
                f"{LIB}/libglib.so.0.7": Elf(needed=("libpcre.so.2", "libc.so.6")).build(),
            },
            "pcre": {f"{LIB}/libpcre.so.2": Elf(needed=("libc.so.6",)).build()},
            "only": {f"{LIB}/libonly.so.1": Elf(needed=("libpcre.so.2",)).build()},
            "private": {"usr/lib/private/libhidden.so": Elf(needed=()).build()},
        }
    )


def test_a_library_of_one_goes_to_it_and_a_library_of_two_to_the_base(host):
    rough = [
        recipe("base"),
        recipe("qemu", program("usr/bin/qemu", "libonly.so.1", "libglib.so.0")),
        recipe("swtpm", program("usr/bin/swtpm", "libglib.so.0")),
    ]
    base, qemu, swtpm = assign(rough, host, base="base")
    assert set(qemu.nodes) == {"usr/bin/qemu", f"{LIB}/libonly.so.1"}
    assert set(swtpm.nodes) == {"usr/bin/swtpm"}
    assert set(base.nodes) == {
        f"{LIB}/libc.so.6",
        f"{LIB}/libglib.so.0",
        f"{LIB}/libglib.so.0.7",
        f"{LIB}/libpcre.so.2",
    }
    assert qemu.requires == swtpm.requires == {"base"}
    assert base.requires == frozenset()


def test_a_library_that_a_recipe_names_stays_there_and_makes_a_dependency(host):
    rough = [
        recipe("base"),
        recipe("python", *host.node(f"{LIB}/libonly.so.1")),
        recipe("qemu", program("usr/bin/qemu", "libonly.so.1")),
    ]
    base, python, qemu = assign(rough, host, base="base")
    assert set(qemu.nodes) == {"usr/bin/qemu"}
    assert qemu.requires == {"python"}
    assert f"{LIB}/libpcre.so.2" in python.nodes
    assert not base.nodes


def test_stated_dependencies_are_kept(host):
    rough = [recipe("base"), recipe("kernel", requires=frozenset({"python"}))]
    assert assign(rough, host, base="base")[1].requires == {"python"}


def test_a_runpath_is_searched_only_where_it_is_absolute(host):
    absolute = recipe("a", program("usr/bin/a", "libhidden.so", runpath="/usr/lib/private"))
    assert "usr/lib/private/libhidden.so" in assign([absolute], host, base="a")[0].nodes
    relative = recipe("a", program("usr/bin/a", "libhidden.so", runpath="$ORIGIN/../lib/private"))
    with pytest.raises(HostError):
        assign([relative], host, base="a")


def test_a_library_that_is_nowhere_is_named_with_who_wants_it(host):
    with pytest.raises(HostError, match=r"libgone\.so\.1, which /usr/bin/x needs") as caught:
        assign([recipe("base", program("usr/bin/x", "libgone.so.1"))], host, base="base")
    assert caught.value.code == "library-missing"


def test_a_path_in_two_vibs_is_refused(host):
    with pytest.raises(ArgumentError, match="both in a and in b"):
        assign([recipe("a", File("x", b"")), recipe("b", File("x", b""))], host, base="a")


def test_the_loader_s_zip_is_no_part_of_the_root():
    loader = recipe("boot", File("x", b""), form=Form.ZIP)
    assert exactly_one([loader, recipe("kernel", File("x", b""))]) == {"x": "kernel"}


def test_a_damaged_program_is_our_own_error(host):
    with pytest.raises(FormatError):
        assign([recipe("base", File("usr/bin/x", b"\x7fELF" + b"\xff" * 60))], host, base="base")
