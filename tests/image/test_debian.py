from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from casemate.errors import HostError
from casemate.formats.descriptor_values import MAX_NAME
from casemate.image.debian import Packages, vib_version
from casemate.image.tree import File, Link

LIB = "usr/lib/x86_64-linux-gnu"


def test_links_are_kept_and_followed_to_the_file(debian):
    packages = debian(
        {
            "libz": {
                f"{LIB}/libz.so": "libz.so.1",
                f"{LIB}/libz.so.1": "libz.so.1.2",
                f"{LIB}/libz.so.1.2": b"z",
            }
        }
    )
    nodes = list(packages.node(f"{LIB}/libz.so"))
    assert nodes == [
        Link(f"{LIB}/libz.so", "libz.so.1"),
        Link(f"{LIB}/libz.so.1", "libz.so.1.2"),
        File(f"{LIB}/libz.so.1.2", packages.root / f"{LIB}/libz.so.1.2"),
    ]


def test_a_link_up_and_across_is_followed_inside_the_root(debian):
    packages = debian({"p": {"usr/share/a/x": "../../lib/y", "usr/lib/y": b"y"}})
    assert [node.path for node in packages.node("usr/share/a/x")] == ["usr/share/a/x", "usr/lib/y"]


def test_a_file_that_no_package_brought_is_refused(debian):
    packages = debian({"p": {"usr/bin/good": b""}})
    (packages.root / "usr/bin/planted").write_bytes(b"\x7fELF")
    with pytest.raises(HostError) as caught:
        list(packages.node("usr/bin/planted"))
    assert caught.value.code == "file-unowned"


def test_a_link_to_a_file_that_no_package_brought_is_refused(debian):
    packages = debian({"p": {"usr/bin/tool": "/opt/planted"}})
    (packages.root / "opt").mkdir()
    (packages.root / "opt/planted").write_bytes(b"")
    with pytest.raises(HostError) as caught:
        list(packages.node("usr/bin/tool"))
    assert caught.value.code == "file-unowned"


def test_links_in_a_circle_end(debian):
    packages = debian({"p": {"usr/a": "b", "usr/b": "a"}})
    with pytest.raises(HostError) as caught:
        list(packages.node("usr/a"))
    assert caught.value.code == "file-missing"


def test_a_deleted_file_is_named(debian):
    packages = debian({"p": {"usr/bin/tool": b""}})
    (packages.root / "usr/bin/tool").unlink()
    with pytest.raises(HostError, match="usr/bin/tool is missing"):
        list(packages.node("usr/bin/tool"))


def test_a_missing_package_says_how_to_get_it(debian):
    with pytest.raises(HostError) as caught:
        debian({}).version("qemu-system-x86")
    assert "apt-get install qemu-system-x86" in caught.value.remedy


def test_another_distribution_is_our_own_error(tmp_path):
    with pytest.raises(HostError, match="package database"):
        Packages(tmp_path).version("libc6")


@given(st.from_regex(r"\A([0-9]{1,2}:)?[0-9][0-9A-Za-z.+~]{0,60}(-[0-9A-Za-z.+~]{1,60})?\Z"))
@example("1:7.2+dfsg-7+deb12u18+b3")
def test_every_debian_version_becomes_a_vib_version(version):
    vib = vib_version(version)
    assert 0 < len(vib) <= MAX_NAME
    assert all(letter.isalnum() or letter in ".-" for letter in vib)
