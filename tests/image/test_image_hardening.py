"""A payload with a program that breaks a required rule is neither built, nor good, wherever."""

from __future__ import annotations

import mmap
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError, HostError, VerificationError
from casemate.formats.erofs import ErofsImage
from casemate.formats.vib import parse_vib
from casemate.image.files import Recipe
from casemate.image.hardening import enforce_recipe, judge_vib, programs
from casemate.image.tree import File, by_path
from casemate.kernel.boot.elfcheck import LayerJudge
from casemate.policy.hardening import Waiver
from casemate.policy.levels import Level
from casemate.testing.elves import Elf
from casemate.testing.vibs import make_vib

GOOD = Elf().build()
FIXED = Elf(e_type=2).build()
PATH = "usr/lib/a.so"


def recipe(content: bytes, level: str = "accepted") -> Recipe:
    return Recipe("x", "x.v00", "1-1", "x", "x", level, by_path([File(PATH, content)]))


def test_a_good_library_is_built():
    (report,) = enforce_recipe(recipe(GOOD))
    assert report.accepted


@pytest.mark.parametrize(
    ("elf", "code"),
    [
        (Elf(e_type=2), "hardening-pie"),
        (Elf(stack=7), "hardening-nx-stack"),
        (Elf(stack=None), "hardening-nx-stack"),
        (Elf(text_flags=7), "hardening-no-wx"),
        (Elf(relro=False), "hardening-relro"),
        (Elf(flags=4 | 8), "hardening-no-textrel"),
        (Elf(rpath="/usr/lib"), "hardening-no-rpath"),
        (Elf(runpath="$ORIGIN"), "hardening-runpath"),
    ],
)
def test_a_weak_program_is_not_built(elf, code):
    with pytest.raises(VerificationError) as caught:
        enforce_recipe(recipe(elf.build()))
    assert caught.value.code == code
    assert caught.value.component == f"/{PATH}"
    assert f"/{PATH}" in caught.value.reason


def test_lazy_binding_is_refused_to_a_community_library_alone():
    lazy = Elf(flags=0, flags_1=0).build()
    enforce_recipe(recipe(lazy))
    with pytest.raises(VerificationError) as caught:
        enforce_recipe(recipe(lazy, "community"))
    assert caught.value.code == "hardening-bind-now"


def test_a_waiver_lifts_one_rule_of_one_file():
    waiver = Waiver(f"/{PATH}", "pie", "known")
    (report,) = enforce_recipe(recipe(FIXED), [waiver])
    assert [one.rule for one in report.results if one.outcome == "waived"] == ["pie"]
    with pytest.raises(VerificationError):
        enforce_recipe(recipe(FIXED), [Waiver("/usr/lib/b.so", "pie", "known")])
    with pytest.raises(VerificationError):
        enforce_recipe(recipe(Elf(e_type=2, stack=7).build()), [waiver])


def test_what_cannot_be_read_as_a_program_is_refused():
    with pytest.raises(VerificationError) as caught:
        enforce_recipe(recipe(GOOD[:70]))
    assert caught.value.code.startswith("elf-")


@pytest.fixture
def image(tmp_path):
    """Make an EROFS image of the given files, as an image's payloads are made."""

    def make(files: dict[str, bytes], *options: str) -> bytes:
        tree, out = tmp_path / "tree", tmp_path / "image"
        for name, content in files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes(content)
        command = ["mkfs.erofs", "-T0", *(options or ("-zlz4hc",)), "--quiet", out, tree]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("erofs-utils absent")
        return out.read_bytes()

    return make


PADDING = bytes(range(256)) * 64


@pytest.mark.parametrize("options", [("-zlz4hc",), ("-zlz4",), ("-Enoinline_data",)])
def test_programs_are_found_in_an_image(image, options):
    made = image({PATH: GOOD + PADDING, "usr/share/x": PADDING, "bin/y": FIXED}, *options)
    found = dict(programs("x.v00", made))
    assert {path: bytes(content) for path, content in found.items()} == {
        f"/{PATH}": GOOD + PADDING,
        "/bin/y": FIXED,
    }


def view(data: bytes) -> memoryview:
    mapping = mmap.mmap(-1, len(data))
    mapping[:] = data
    return memoryview(mapping)


def test_a_damaged_image_is_refused(image):
    made = bytearray(image({PATH: GOOD + PADDING}))
    made[1024 + 14 : 1024 + 16] = b"\xff\xff"
    with pytest.raises(FormatError) as caught:
        list(programs("x.v00", bytes(made)))
    assert caught.value.code == "erofs-broken"


def test_a_tree_is_judged_as_it_will_be_mounted(tmp_path):
    for name, content in ((PATH, GOOD), ("usr/share/text", b"x"), ("usr/lib/empty", b"")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "usr/lib/b.so").symlink_to("a.so")
    unknown = ErofsImage(view(bytes(4096)))
    with LayerJudge(()) as judge:
        judge.submit(tmp_path, Level.ACCEPTED, "x.v00", unknown)
        assert [report.path for report in judge.conclude()] == [f"/{PATH}"]
    (tmp_path / "usr/share/notes.txt").write_bytes(FIXED)
    unknown = ErofsImage(view(bytes(4096)))
    with LayerJudge(()) as judge:
        judge.submit(tmp_path, Level.ACCEPTED, "x.v00", unknown)
        with pytest.raises(VerificationError) as caught:
            judge.conclude()
    assert (caught.value.component, caught.value.code) == ("/usr/share/notes.txt", "hardening-pie")


@given(st.binary(max_size=200).map(lambda tail: b"\x7fELF" + tail))
def test_a_payload_that_claims_to_be_a_program_is_judged_or_refused(data):
    vib = parse_vib(make_vib(payloads={"x": data}))
    try:
        reports, refused = judge_vib(vib)
    except HostError:
        pytest.skip("erofs-utils absent")
    assert reports or refused
