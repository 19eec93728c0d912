"""The stand-in for a library that nobody calls: the binding loads with it, and with no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tpm2_pytss

from casemate.errors import HostError
from casemate.formats.elf import parse_elf
from casemate.image.fapi import SONAME, stand_in

pytestmark = pytest.mark.host

BINDING = next(Path(tpm2_pytss.__file__).parent.glob("_libtpm2_pytss*.so"))


def test_the_binding_loads_with_the_stand_in_and_no_network_library(tmp_path: Path) -> None:
    library = stand_in(BINDING.read_bytes(), tmp_path)
    assert library == stand_in(BINDING.read_bytes(), tmp_path)
    assert set(parse_elf(library.read()).needed) <= {"libc.so.6"}
    (tmp_path / SONAME).write_bytes(library.read())
    program = (
        "import tpm2_pytss; text = open('/proc/self/maps').read();"
        f"assert '{tmp_path}' in text; assert 'curl' not in text; assert 'ldap' not in text"
    )
    environment = {"LD_LIBRARY_PATH": str(tmp_path), "LD_BIND_NOW": "1"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)


def test_a_binding_without_fapi_needs_no_stand_in(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        stand_in(b"\0Esys_Create\0", tmp_path)
