"""How a file begins, told from the image: never a false "it cannot", whatever the bytes."""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.formats.erofs import ErofsImage

START = b"\x7fELF"
TEXT = b"the quick brown fox jumps over the lazy dog\n"
CONTENTS = {
    "empty": b"",
    "tiny": b"x",
    "start": START,
    "short": START + b"\1",
    "small": START + bytes(100),
    "text": TEXT * 200,
    "late": b"abcd" + START + TEXT * 200,
    "large": START + TEXT * 5000,
    "zeros": START + bytes(200_000),
    "zeros first": bytes(8192) + START,
    "repeating": START * 4000,
    "near": b"\x7fELG" + TEXT * 400,
    "noise": START + random.Random(1).randbytes(40_000),
    "other noise": random.Random(2).randbytes(70_000),
    "half": START + random.Random(3).randbytes(3000) + bytes(90_000),
    "page": START + bytes(4092),
}
OPTIONS = (("-zlz4hc",), ("-zlz4",), (), ("-Enoinline_data",), ("-zlz4hc", "-C65536"))


def made(place: Path, *options: str) -> bytes:
    tree, image = place / "tree", place / "image"
    tree.mkdir()
    for name, content in CONTENTS.items():
        (tree / name).write_bytes(content)
    try:
        subprocess.run(
            ["mkfs.erofs", "-T0", *options, "--quiet", image, tree], check=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("erofs-utils absent")
    return image.read_bytes()


def node_of(place: Path, name: str) -> int:
    """Ask dump.erofs for the number of a file's node."""
    said = subprocess.run(
        ["dump.erofs", f"--path=/{name}", place / "image"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return int(said.partition("NID:")[2].split()[0])


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_a_file_that_begins_so_is_never_denied(tmp_path, options):
    image = ErofsImage(memoryview(made(tmp_path, *options)))
    denied = set()
    for name, content in CONTENTS.items():
        may = image.may_begin(node_of(tmp_path, name), len(content), START)
        assert may or not content.startswith(START), name
        if not may:
            denied.add(name)
    if "-C65536" not in options:
        assert denied == {name for name, c in CONTENTS.items() if not c.startswith(START)}


def test_an_image_of_other_features_denies_nothing(tmp_path):
    data = bytearray(made(tmp_path))
    struct.pack_into("<I", data, 1024 + 80, 0x20)
    image = ErofsImage(memoryview(data))
    assert image.may_begin(node_of(tmp_path, "text"), len(CONTENTS["text"]), START)


def many(place: Path, *options: str) -> tuple[dict[str, int], bytes]:
    """Make an image of nested and long directories; return the size of every file in it too."""
    tree, image = place / "tree", place / "image"
    sizes = {}
    for folder, count in (("", 3), ("long", 400), ("a/b/c", 2), ("caf\xe9 x", 1), ("one", 1)):
        (tree / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            name = f"{folder}/{'n' * (number % 90)}{number}".lstrip("/")
            (tree / name).write_bytes(TEXT * (number % 7 + 1))
            sizes[f"/{name}"] = len(TEXT) * (number % 7 + 1)
    (tree / "link").symlink_to("a")
    (tree / "one/twin").hardlink_to(tree / "one/0")
    sizes["/one/twin"] = sizes["/one/0"]
    (tree / "empty").mkdir()
    try:
        subprocess.run(
            ["mkfs.erofs", "-T0", *options, "--quiet", image, tree], check=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("erofs-utils absent")
    return sizes, image.read_bytes()


@pytest.mark.parametrize("options", OPTIONS[:-1], ids=" ".join)
def test_every_file_of_an_image_is_listed_under_each_of_its_names(tmp_path, options):
    sizes, image = many(tmp_path, *options)
    found = ErofsImage(memoryview(image)).files()
    assert found is not None
    assert {file.path: file.size for file in found} == sizes
    assert len(found) == len(sizes)
    twins = {file.node for file in found if file.path in {"/one/0", "/one/twin"}}
    assert twins == {node_of(tmp_path, "one/twin")}


def entry_of(image: bytes, node: int) -> int:
    """Return where the directory entry that leads to a node stands."""
    found = image.find(struct.pack("<Q", node))
    while (found - 1024) % 4 or image[found + 10] not in range(1, 8):
        found = image.find(struct.pack("<Q", node), found + 1)
    return found


@pytest.mark.parametrize("claimed", [0, 2, 3, 5, 7, 255])
def test_a_directory_that_lies_about_a_program_does_not_hide_it(tmp_path, claimed):
    image = bytearray(made(tmp_path, "-zlz4hc"))
    image[entry_of(image, node_of(tmp_path, "start")) + 10] = claimed
    found = ErofsImage(memoryview(image)).files()
    assert found is not None
    assert "/start" in {file.path for file in found}


def test_a_directory_that_leads_back_to_itself_is_left_to_linux(tmp_path):
    image = bytearray(many(tmp_path)[1])
    (root,) = struct.unpack_from("<H", image, 1024 + 14)
    struct.pack_into("<Q", image, entry_of(image, node_of(tmp_path, "a/b")), root)
    assert ErofsImage(memoryview(image)).files() is None


@pytest.mark.parametrize(
    ("place", "form", "value"),
    [
        (1024, "<I", 0),  # magic
        (1024 + 12, "<B", 9),  # blocks of 512 bytes
        (1024 + 14, "<H", 0xFFFF),  # root outside
        (1024 + 40, "<I", 1 << 31),  # inodes outside
        (1024 + 80, "<I", 0x20),  # fragments
        (1024 + 90, "<B", 4),  # directories in blocks of 64 KiB
    ],
)
def test_what_is_not_understood_is_left_to_linux(tmp_path, place, form, value):
    image = bytearray(made(tmp_path))
    struct.pack_into(form, image, place, value)
    assert ErofsImage(memoryview(image)).files() is None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return made(tmp_path_factory.mktemp("erofs"), "-zlz4hc")


@given(st.data())
def test_whatever_the_bytes_it_answers(whole, data):
    image = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 8))):
        image[data.draw(st.integers(1024, len(image) - 1))] = data.draw(st.integers(0, 255))
    cut = memoryview(image)[: data.draw(st.integers(0, len(image)))]
    node = data.draw(st.integers(0, 1 << 40))
    found = ErofsImage(cut).files()
    assert found is None or all(file.path.startswith("/") for file in found)
    assert ErofsImage(cut).may_begin(node, data.draw(st.integers(0, 1 << 62)), START) in (
        True,
        False,
    )


def test_a_node_number_that_leads_nowhere_is_no_denial(whole):
    assert ErofsImage(memoryview(whole)).may_begin(1 << 60, 100, START)
