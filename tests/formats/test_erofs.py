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
    assert ErofsImage(cut).may_begin(node, data.draw(st.integers(0, 1 << 62)), START) in (
        True,
        False,
    )


def test_a_node_number_that_leads_nowhere_is_no_denial(whole):
    assert ErofsImage(memoryview(whole)).may_begin(1 << 60, 100, START)
