"""A stand-in for libtss2-fapi in the visor root and in the first root of a machine.

The binding of the TPM library is linked against FAPI, which nobody here calls, and which pulls in
curl, LDAP, Kerberos, GnuTLS and SSH: into the memory of the kernel, and into what firmware's
signature answers for. The stand-in has the same names; each returns TSS2_FAPI_RC_GENERAL_FAILURE.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Final

from casemate.errors import HostError
from casemate.image import tools
from casemate.image.debian import TRIPLET
from casemate.image.tree import File

BINDING: Final = "/_libtpm2_pytss.abi3.so"
"""How the path of the binding ends."""
SONAME: Final = "libtss2-fapi.so.1"
FLAGS: Final = (
    *("-O2", "-shared", "-fPIC", "-fcf-protection", "-fstack-protector-strong", "-Wall", "-Werror"),
    *("-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack", f"-Wl,-soname,{SONAME}"),
    *("-Wl,--build-id=sha1", "-s"),
)
_NAME: Final = re.compile(rb"(?<=\0)Fapi_[A-Za-z0-9_]+(?=\0)")
_FUNCTION: Final = "unsigned {name}(void);\nunsigned {name}(void) {{ return 0x60001; }}\n"


def stand_in(binding: bytes, scratch: Path) -> File:
    """Return the library with every name that the binding asks for.

    Args:
        binding: the binding's shared object.
        scratch: directory for intermediate files.

    Raises:
        HostError: the compiler is missing, or the binding asks for nothing of the kind.
    """
    names = sorted({name.decode() for name in _NAME.findall(binding)})
    if not names:
        raise HostError(
            "The TPM library's binding does not ask for FAPI any more.",
            code="fapi",
            component=SONAME,
            remedy="Leave the stand-in out.",
        )
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        place = Path(temporary)
        source = "".join(_FUNCTION.format(name=name) for name in names)
        (place / "fapi.c").write_text(source, encoding="ascii")
        tools.run("gcc", *FLAGS, "-o", SONAME, "fapi.c", cwd=place)
        return File(f"usr/lib/{TRIPLET}/{SONAME}", (place / SONAME).read_bytes())
