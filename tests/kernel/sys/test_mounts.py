"""Mounts allow no more than was asked; sealed images cannot change; links lead nowhere."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from casemate.errors import HostError, LimitError
from casemate.kernel.sys import memfd, mounts
from casemate.kernel.sys.files import open_beneath
from casemate.kernel.sys.loops import loop_device
from casemate.kernel.sys.mounts import READ_ONLY_CODE, READ_ONLY_DATA

MARK = f".of-{os.getpid()}"
"""In the name of what this process seals, and children that it forks."""
FREE_SECONDS = 60.0
pytestmark = [pytest.mark.host, pytest.mark.usefixtures("root_only")]


def image(tmp_path: Path, name: str, files: dict[str, bytes]) -> Path:
    tree = tmp_path / f"{name}.tree"
    tree.mkdir()
    for file, content in files.items():
        (tree / file).write_bytes(content)
        (tree / file).chmod(0o755)
    target = tmp_path / f"{name}.img"
    subprocess.run(
        ["mkfs.erofs", "-T0", "--quiet", str(target), str(tree)],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return target


def sealed(path: Path) -> int:
    source = os.open(path, os.O_RDONLY)
    try:
        return memfd.sealed_copy(source, f"{path.name}{MARK}")
    finally:
        os.close(source)


def devices_are_free() -> bool:
    """Wait until no loop device holds what this process sealed; others may hold what they want."""
    deadline = time.monotonic() + FREE_SECONDS
    while any(MARK in backing for backing in _backings()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _backings() -> Iterator[str]:
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            yield entry.read_text()


def test_layers_of_sealed_images_make_one_read_only_tree_and_free_their_devices(in_child, tmp_path):
    layers = [
        image(tmp_path, "low", {"shared": b"low", "only-low": b"1"}),
        image(tmp_path, "high", {"shared": b"high"}),
    ]

    def build() -> tuple[str, str, str]:
        places = []
        for layer in layers:
            descriptor = sealed(layer)
            place = tmp_path / f"{layer.stem}.mnt"
            place.mkdir()
            with loop_device(descriptor, layer.name) as device:
                mounts.erofs(device, place)
            os.close(descriptor)
            places.append(place)
        root = tmp_path / "root"
        root.mkdir()
        mounts.overlay(root, list(reversed(places)))
        try:
            (root / "new").write_bytes(b"")
            written = "written"
        except OSError:
            written = "refused"
        return (root / "shared").read_text(), (root / "only-low").read_text(), written

    assert in_child(build) == ("high", "1", "refused")
    assert devices_are_free()


def test_a_sealed_copy_cannot_be_changed_by_root(tmp_path):
    (tmp_path / "payload").write_bytes(b"verified" * 1000)
    descriptor = sealed(tmp_path / "payload")
    assert memfd.is_sealed(descriptor)
    attacks = (
        lambda: os.pwrite(descriptor, b"evil", 0),
        lambda: os.ftruncate(descriptor, 1),
        lambda: os.ftruncate(descriptor, 1 << 20),
    )
    for attack in attacks:
        with pytest.raises(PermissionError):
            attack()
    with memfd.mapped(descriptor) as view:
        assert bytes(view) == b"verified" * 1000
        assert view.readonly
    os.close(descriptor)


def test_a_payload_over_the_limit_is_refused(tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 1001)
    source = os.open(tmp_path / "big", os.O_RDONLY)
    with pytest.raises(LimitError):
        memfd.sealed_copy(source, "big", limit=1000)
    os.close(source)


def test_sealed_bytes_give_the_bytes_back():
    for content in (b"", b"one", os.urandom(100_000)):
        descriptor = memfd.sealed_bytes(content, "part")
        with memfd.mapped(descriptor) as view:
            assert bytes(view) == content
        os.close(descriptor)


def test_nothing_runs_from_a_noexec_bind(in_child, tmp_path):
    source, target = tmp_path / "data", tmp_path / "shown"
    source.mkdir()
    target.mkdir()
    program = source / "evil"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)

    def attack() -> tuple[bool, bool]:
        mounts.bind(source, target, READ_ONLY_DATA)
        try:
            (target / "evil").write_bytes(b"")
            written = True
        except OSError:
            written = False
        pid = os.fork()
        if pid == 0:
            try:
                os.execv(target / "evil", ["evil"])
            except PermissionError:
                os._exit(13)
        return written, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 13

    assert in_child(attack) == (False, True)


def test_after_pivot_root_the_old_root_is_gone(in_child, tmp_path):
    (tmp_path / "inside").write_text("here")

    def pivot() -> tuple[list[str], bool]:
        mounts.bind(tmp_path, tmp_path, READ_ONLY_CODE)
        mounts.pivot_root(tmp_path)
        return [entry.name for entry in Path("/").iterdir()], tmp_path.exists()

    assert in_child(pivot) == (["inside"], False)


def test_a_tmpfs_is_bounded(in_child, tmp_path):
    def fill() -> int:
        mounts.tmpfs(tmp_path, size=65536, mode=0o700)
        try:
            with (tmp_path / "flood").open("wb", buffering=0) as stream:
                while stream.write(bytes(4096)):
                    pass
        except OSError as error:
            return error.errno or 0
        return 0

    assert in_child(fill) == 28


def test_a_bad_mount_is_our_error_with_a_remedy(in_child, tmp_path):
    def attack() -> tuple[str, str]:
        try:
            mounts.erofs("/dev/null", tmp_path)
        except HostError as error:
            return error.code, error.component
        return "", ""

    assert in_child(attack) == ("host-enotblk", str(tmp_path))


def test_overlay_options_over_a_page_are_refused_before_the_kernel_cuts_them(tmp_path):
    with pytest.raises(HostError) as caught:
        mounts.overlay(tmp_path, ["/" + "x" * 200] * 30)
    assert caught.value.code == "mount-options"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("link", "host-eloop"),
        ("sub/../../outside", "host-exdev"),
        ("../outside", "host-exdev"),
        ("/etc/passwd", "host-exdev"),
        ("linked/file", "host-eloop"),
        ("absent", "host-enoent"),
    ],
)
def test_no_path_leads_out_of_its_directory(tmp_path, path, code):
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (tmp_path / "outside").write_text("secret")
    (inside / "link").symlink_to(tmp_path / "outside")
    (inside / "linked").symlink_to(tmp_path)
    directory = os.open(inside, os.O_PATH)
    try:
        with pytest.raises(HostError) as caught:
            open_beneath(directory, path, os.O_RDONLY)
        assert caught.value.code == code
    finally:
        os.close(directory)
