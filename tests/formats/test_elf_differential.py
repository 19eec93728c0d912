"""The reader agrees with LIEF and pyelftools on the ELF files of this machine, rule by rule."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import lief
import pytest
from elftools.elf.elffile import ELFFile

from casemate.errors import FormatError
from casemate.formats.elf import ElfFacts, is_elf, parse_elf

PLACES = ("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec")
AT_MOST = 600
"""Files compared: enough to meet every linker and layout, few enough for a unit test."""
AT_MOST_BYTES = 8 * 1024 * 1024
TAG = lief.ELF.DynamicEntry.TAG
KIND = lief.ELF.Segment.TYPE


def machine_files() -> list[Path]:
    found = []
    for place in PLACES:
        for directory, _, names in os.walk(place):
            for name in names:
                path = Path(directory, name)
                try:
                    status = path.lstat()
                    if not stat.S_ISREG(status.st_mode) or not 64 < status.st_size < AT_MOST_BYTES:
                        continue
                    with path.open("rb", buffering=0) as file:
                        if is_elf(file.read(4)):
                            found.append(path)
                except OSError:
                    continue
    found.sort()
    return found[:: max(1, len(found) // AT_MOST)]


@pytest.fixture(scope="module")
def readable() -> list[tuple[Path, ElfFacts]]:
    facts = []
    refused = []
    for path in machine_files():
        try:
            facts.append((path, parse_elf(path.read_bytes())))
        except FormatError as error:
            refused.append((path, error.code))
    if not facts:
        pytest.skip("no ELF files in the usual places: nothing to compare with")
    # The kernel refuses these two as well: an interpreter stripped into a debug file, and x32.
    assert {code for _, code in refused} <= {"elf-interpreter", "elf-ambiguous"}, refused
    return [(path, fact) for path, fact in facts if fact.is_loaded]


def as_lief_sees(path: Path) -> dict[str, object]:
    binary = lief.ELF.parse(str(path))
    assert binary is not None
    segments = list(binary.segments)
    flags = binary.get(TAG.FLAGS).value if binary.has(TAG.FLAGS) else 0
    flags_1 = binary.get(TAG.FLAGS_1).value if binary.has(TAG.FLAGS_1) else 0
    symbols = binary.dynamic_symbols
    return {
        "needed": tuple(binary.libraries),
        "interpreter": binary.interpreter if binary.has_interpreter else None,
        "soname": binary.get(TAG.SONAME).name if binary.has(TAG.SONAME) else None,
        "rpath": binary.get(TAG.RPATH).rpath if binary.has(TAG.RPATH) else None,
        "runpath": binary.get(TAG.RUNPATH).runpath if binary.has(TAG.RUNPATH) else None,
        "relro": any(s.type == KIND.GNU_RELRO for s in segments),
        "exec_stack": next(
            (bool(int(s.flags) & 1) for s in segments if s.type == KIND.GNU_STACK), None
        ),
        "writable_executable": tuple(
            s.virtual_address for s in segments if s.type == KIND.LOAD and int(s.flags) & 3 == 3
        ),
        "bind_now": binary.has(TAG.BIND_NOW) or bool(flags & 8) or bool(flags_1 & 1),
        "textrel": binary.has(TAG.TEXTREL) or bool(flags & 4),
        "pie_flag": bool(flags_1 & 0x08000000),
        "canary": any(s.name == "__stack_chk_fail" for s in symbols),
        "fortified": len(
            {
                s.name
                for s in symbols
                if s.name.startswith("__") and s.name.endswith("_chk") and s.shndx == 0
            }
        ),
        "e_type": int(binary.header.file_type.value) & 0xFFFF,
    }


def as_pyelftools_sees(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        elf = ELFFile(file)
        segments = [s.header for s in elf.iter_segments()]
        tags: dict[str, list[object]] = {}
        for segment in elf.iter_segments("PT_DYNAMIC"):
            for tag in segment.iter_tags():
                name = {"DT_NEEDED": "needed", "DT_SONAME": "soname", "DT_RPATH": "rpath"}.get(
                    tag.entry.d_tag, {"DT_RUNPATH": "runpath"}.get(tag.entry.d_tag, "")
                )
                tags.setdefault(tag.entry.d_tag, []).append(
                    getattr(tag, name) if name else tag.entry.d_val
                )
        flags = int(str(tags.get("DT_FLAGS", [0])[0]))
        flags_1 = int(str(tags.get("DT_FLAGS_1", [0])[0]))
        interpreters = [s.get_interp_name() for s in elf.iter_segments("PT_INTERP")]
        stacks = [bool(s.p_flags & 1) for s in segments if s.p_type == "PT_GNU_STACK"]
        build_ids = [
            bytes.fromhex(note.n_desc)
            for segment in elf.iter_segments("PT_NOTE")
            for note in segment.iter_notes()
            if note.n_type == "NT_GNU_BUILD_ID"
        ]
        return {
            "bits": elf.elfclass,
            "little_endian": elf.little_endian,
            "needed": tuple(tags.get("DT_NEEDED", ())),
            "interpreter": next(iter(interpreters), None),
            "soname": next(iter(tags.get("DT_SONAME", ())), None),
            "rpath": next(iter(tags.get("DT_RPATH", ())), None),
            "runpath": next(iter(tags.get("DT_RUNPATH", ())), None),
            "relro": any(s.p_type == "PT_GNU_RELRO" for s in segments),
            "exec_stack": next(iter(stacks), None),
            "writable_executable": tuple(
                s.p_vaddr for s in segments if s.p_type == "PT_LOAD" and s.p_flags & 3 == 3
            ),
            "bind_now": "DT_BIND_NOW" in tags or bool(flags & 8) or bool(flags_1 & 1),
            "textrel": "DT_TEXTREL" in tags or bool(flags & 4),
            "pie_flag": bool(flags_1 & 0x08000000),
            "dynamic": bool(tags),
            "build_id": next(iter(build_ids), b""),
        }


@pytest.mark.parametrize("oracle", [as_lief_sees, as_pyelftools_sees])
def test_every_fact_is_what_another_reader_says(readable, oracle):
    different = []
    for path, facts in readable:
        for name, expected in oracle(path).items():
            if getattr(facts, name) != expected:
                different.append((str(path), name, getattr(facts, name), expected))
    assert not different
