"""Makes the payload of a VIB: a reproducible EROFS image, or the loader's zip.

Same entries, same bytes: fixed times and identifier, owner root, modes normalised, modules
compiled by a fresh interpreter with a fixed hash seed.

Images are compressed with LZ4, slowly (``lz4hc``): a host keeps them in sealed memory and hashes
them twice at every boot, so half the bytes is half the memory and half the time, while programs
start no slower from them (docs/adr/0004 has the measurement).
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5

from casemate.image import tools
from casemate.image.tree import File, Node, normalise, write_tree

NAMESPACE: Final = UUID("6f1c7d0a-5a0e-5a59-9d0c-3c8f6c6b1a4e")
"""The volume identifiers of our images are derived from it and the VIB's name."""

ZIP_DATE: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest that the format can say."""

MODULE_PLACES: Final = ("usr/lib/python3.11", "usr/lib/python3/dist-packages")


def write_erofs(
    name: str, nodes: Mapping[str, Node], image: Path, *, compiled: bool, scratch: Path
) -> tuple[str, ...]:
    """Write an EROFS image.

    Args:
        name: of the VIB; gives the volume identifier.
        nodes: entries by path.
        image: file to write.
        compiled: whether Python modules get their compiled form beside them.
        scratch: directory for the tree that is packed.

    Returns:
        Paths of all files and links inside, sorted.

    Raises:
        HostError: a program is missing or failed, or a file cannot be read.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        stage = Path(temporary, "root")
        stage.mkdir()
        write_tree(nodes, stage)
        if compiled:
            compile_modules(stage)
        files = normalise(stage)
        tools.run(
            "mkfs.erofs",
            "-x-1",
            "-T0",
            "-zlz4hc",
            f"-U{uuid5(NAMESPACE, name)}",
            "--all-root",
            "--quiet",
            image,
            stage,
        )
    return files


def compile_modules(stage: Path) -> None:
    """Compile the Python modules below a root that is being made.

    Compiled files carry the path they will have at run time, and are never compared with their
    source again ("unchecked hash"): both are in the same verified image. The hash seed is fixed
    because the order of set literals depends on it; one process per root because what is
    already interned decides which constants are shared.

    Raises:
        HostError: a module does not compile.
    """
    places = [stage / place for place in MODULE_PLACES if (stage / place).is_dir()]
    tools.run(
        "python3.11",
        *("-S", "-s", "-P", "-m", "compileall", "-q", "-f", "-j1"),
        *("--invalidation-mode", "unchecked-hash", "-s", stage, "-p", "/"),
        *places,
        environment={"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
    )


def zip_bytes(nodes: Mapping[str, Node]) -> bytes:
    """Return files as a zip: stored, sorted, without times; what ``zipimport`` reads quickest."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, node in sorted(nodes.items()):
            if isinstance(node, File):
                entry = zipfile.ZipInfo(path, ZIP_DATE)
                entry.create_system = 3
                entry.external_attr = 0o100444 << 16
                archive.writestr(entry, node.read())
    return buffer.getvalue()
