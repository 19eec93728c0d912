"""Fuzz target, coverage-guided: what reads a package, a bundle or a module of a stranger.

    python tests/fuzz/packages.py [CORPUS] [-max_total_time=60 and other options of libFuzzer]

The fuzzer is atheris, which watches which lines of our parsers an input reaches (``make fuzz``).
The first byte chooses the parser. Whatever the bytes, only our own errors may
escape, and no input may take long.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

atheris = import_module("atheris")

with atheris.instrument_imports(include=["casemate"]):
    from casemate.errors import CasemateError, FormatError
    from casemate.formats.ar import parse_ar
    from casemate.formats.bootcfg import parse_bootcfg
    from casemate.formats.cms import sign_bare, verify_detached
    from casemate.formats.compressed import gzip
    from casemate.formats.depot import parse_depot, write_depot
    from casemate.formats.descriptor import parse_descriptor, write_descriptor
    from casemate.formats.imgdb import parse_imgdb
    from casemate.formats.kickstart import parse_kickstart
    from casemate.formats.kmod import join_module, split_module
    from casemate.formats.modinfo import parse_modinfo
    from casemate.formats.pluginmanifest import parse_manifest
    from casemate.formats.tarball import TarEntry, parse_tar, parse_tgz
    from casemate.formats.tarwrite import write_tar
    from casemate.formats.timestamp import read_token, token_of
    from casemate.formats.vib import parse_vib
    from casemate.formats.vmtar import parse_vgz, parse_vmtar
    from casemate.image.vibcheck import examine
    from casemate.kernel.plugins.wire import pack, unpack
    from casemate.policy.mountaudit import parse_mounts
    from casemate.policy.vibcontent import read_archive
    from casemate.testing.pki import shared_pki
    from casemate.testing.vibs import announce, make_descriptor, make_vib

SLOWEST = 5.0
"""Seconds for one input; instrumented code on a shared machine is slow."""
CONTENT = b"content"
_ARCHIVE = write_tar([TarEntry("opt/acme/code", data=b"code")])
_BOOTCFG = b"bootstate=0\nkernel=b.b00\nmodules=k.b00 --- imgdb.tgz\nbuild=1\nupdated=1\n"
_SCRIPT = b"vmaccepteula\ninstall --firstdisk\nrootpw Wald-und-Wiese7\nnetwork --bootproto=dhcp\n"
_PLUGIN = b'name = "acme"\nkind = "storage"\ninterface = 1\nentry = "a:B"\nsuffixes = ["x"]\n'
_MODEL = replace(make_descriptor(), payloads=(announce("demo", b"x"),))


def _bundle(data: bytes) -> object:
    return parse_depot(io.BytesIO(data))


def _message(data: bytes) -> object:
    stream = io.BytesIO(data)

    def exactly(size: int) -> bytes:
        part = stream.read(size)
        if len(part) < size:
            raise FormatError("the plug-in went away")
        return part

    return unpack(exactly)


def _examined(data: bytes) -> object:
    vib = parse_vib(data)
    return examine(vib, ()) if not any(p.type == "erofs" for p in vib.descriptor.payloads) else vib


PARSERS: tuple[Callable[[bytes], object], ...] = (
    parse_ar,
    parse_vib,
    parse_descriptor,
    lambda data: verify_detached(data, CONTENT),
    parse_tar,
    parse_tgz,
    parse_vmtar,
    parse_vgz,
    parse_imgdb,
    _bundle,
    split_module,
    parse_modinfo,
    lambda data: read_token(data, CONTENT),
    token_of,
    parse_bootcfg,
    parse_kickstart,
    lambda data: read_archive("insttar", data),
    _examined,
    lambda data: parse_mounts(data.decode("utf-8", "replace")),
    lambda data: parse_manifest(data, component="plug-in"),
    _message,
)


def target(data: bytes) -> None:
    """Hand the bytes to one parser."""
    if not data:
        return
    parser = PARSERS[data[0] % len(PARSERS)]
    begun = time.monotonic()
    with contextlib.suppress(CasemateError):
        parser(data[1:])
    taken = time.monotonic() - begun
    if taken > SLOWEST:
        raise RuntimeError(f"{len(data)} bytes took {taken:.1f} s")


def seeds() -> dict[int, list[bytes]]:
    """Return good inputs by the number of the parser."""
    vib = make_vib(payloads={"demo": gzip(_ARCHIVE)})
    signer = shared_pki().signers["partner"]
    signature = shared_pki().sign(CONTENT, "partner")
    bare = sign_bare(CONTENT, signer.certificate, signer.key)
    return {
        0: [vib],
        1: [vib],
        2: [write_descriptor(make_descriptor()), write_descriptor(_MODEL)],
        3: [signature, bare],
        4: [_ARCHIVE],
        5: [gzip(_ARCHIVE)],
        6: [_ARCHIVE],
        7: [gzip(_ARCHIVE)],
        8: [gzip(_ARCHIVE)],
        9: [write_depot([vib], [], vendor="Tests")],
        10: [join_module(CONTENT, bare)],
        11: [b"\x7fELF\x02\x01" + bytes(200)],
        12: [bare],
        13: [bare],
        14: [_BOOTCFG],
        15: [_SCRIPT],
        16: [_ARCHIVE],
        17: [vib],
        18: [b"30 1 0:40 / / ro - overlay overlay ro\n"],
        19: [_PLUGIN],
        20: [pack({"capacity": 512}, b"data")],
    }


def main() -> None:
    """Run until libFuzzer's limits say so; a defect ends it with its traceback."""
    with tempfile.TemporaryDirectory() as place:
        for number, inputs in seeds().items():
            for count, data in enumerate(inputs):
                Path(place, f"{number}-{count}").write_bytes(bytes([number]) + data)
        atheris.Setup([*sys.argv, place], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
