"""Datastore paths as vSphere writes them: ``[datastore1] folder/file.vmdk``."""

from __future__ import annotations

import re
from typing import Final

from casemate.errors import DatastorePathError

DEPTH_LIMIT: Final = 32
"""Folders within each other: a person loses the way in far fewer."""
_PATH_LIMIT: Final = 1024
_NAME_BYTES: Final = 255
_PATH: Final = re.compile(r"\[([^\[\]/\x00-\x1f]{1,80})\] *([^\x00-\x1f]*)")
_NAME: Final = re.compile(r"[^/\\\x00-\x1f\x7f]+")
_VOLUMES: Final = "/vmfs/volumes/"
RESERVED: Final = ".casemate-"
"""How the names of files begin that are not complete yet: they are never shown nor named."""


def parse(path: str) -> tuple[str, str]:
    """Return the name of the datastore and the path below it (empty: the datastore itself).

    Raises:
        DatastorePathError: It is not a datastore path, or leads out of the datastore.
    """
    found = _PATH.fullmatch(path) if len(path) <= _PATH_LIMIT else None
    if found is None:
        raise _wrong(path)
    return found[1], "/".join(parts(found[2], path))


def parts(path: str, shown: str = "") -> tuple[str, ...]:
    """Return the names in a path below a datastore; slashes at its end are left out.

    Raises:
        DatastorePathError: A name that is none, or too many of them.
    """
    names = tuple(path.strip("/").split("/")) if path.strip("/") else ()
    if path.startswith("/") or len(path) > _PATH_LIMIT or len(names) > DEPTH_LIMIT:
        raise _wrong(shown or path)
    for name in names:
        if (
            name in {".", ".."}
            or name.startswith(RESERVED)
            or not _NAME.fullmatch(name)
            or not _encodable(name)
        ):
            raise _wrong(shown or path)
    return names


def volume_file(datastore: str, path: str) -> str:
    """Return a file of a datastore as .vmx files name what lies outside of the VM's directory."""
    return f"{_VOLUMES}{datastore}/{path}"


def in_volume(name: str) -> tuple[str, str] | None:
    """Return datastore and path of what ``volume_file`` gave; None for every other name."""
    datastore, slash, path = name.removeprefix(_VOLUMES).partition("/")
    if not name.startswith(_VOLUMES) or not slash:
        return None
    try:
        found = parse(show(datastore, path))
    except DatastorePathError:
        return None
    return found if found == (datastore, path) and path else None


def beside(file: str, name: str) -> str:
    """Return a file in the folder of another, named as that one is: in full, or plainly."""
    return file[: file.rfind("/") + 1] + name


def full(name: str, vmx_path: str) -> str:
    """Return the full name of a VM's file; one beside a .vmx without datastore stays plain."""
    return name if "/" in name else _home(vmx_path) + name


def local(name: str, vmx_path: str) -> str:
    """Return how a VM names a file: plainly what is beside its .vmx, all else in full."""
    home = _home(vmx_path)
    inside = name.removeprefix(home)
    return inside if home and "/" not in inside else name


def _home(vmx_path: str) -> str:
    """Return what full names of the files beside a .vmx begin with; empty: it is none."""
    if not vmx_path.endswith(".vmx"):
        return ""
    try:
        return beside(volume_file(*parse(vmx_path)), "")
    except DatastorePathError:
        return ""


def show(datastore: str, path: str) -> str:
    """Return the datastore path of a path below a datastore."""
    return f"[{datastore}] {path}" if path else f"[{datastore}]"


def _encodable(name: str) -> bool:
    try:
        return len(name.encode()) <= _NAME_BYTES
    except UnicodeEncodeError:
        return False


def _wrong(path: str) -> DatastorePathError:
    return DatastorePathError(
        f"{path[:80]!r} is not a datastore path like [datastore1] folder/file",
        file=path.encode(errors="replace").decode()[:_PATH_LIMIT],
    )
