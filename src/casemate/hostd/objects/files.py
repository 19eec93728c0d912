"""What is found on datastores, as vSphere's file types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from casemate.calls.files import DiskEntry, FileEntry, FolderEntry
from casemate.formats import datastorepath
from casemate.hostd.objects.base import moment
from casemate.machine.facts import DatastoreFact
from casemate.vim25.values import MoRef, Obj, Value

_TYPES: Final = {
    "vmx": "VmConfigFileInfo",
    "vmtx": "TemplateConfigFileInfo",
    "iso": "IsoImageFileInfo",
    "flp": "FloppyImageFileInfo",
    "img": "FloppyImageFileInfo",
    "log": "VmLogFileInfo",
    "nvram": "VmNvramFileInfo",
    "vmsn": "VmSnapshotFileInfo",
    "vmsd": "VmSnapshotFileInfo",
}
_DISK: Final = "VmDiskFileInfo"
_CONTROLLERS: Final = {"ide": "VirtualIDEController", "buslogic": "VirtualBusLogicController"}
_BACKINGS: Final = {
    "custom": "VirtualDiskSparseVer2BackingInfo",
    "monolithicSparse": "VirtualDiskSparseVer2BackingInfo",
    "streamOptimized": "VirtualDiskSparseVer2BackingInfo",
    "twoGbMaxExtentSparse": "VirtualDiskSparseVer2BackingInfo",
}
_FLAT: Final = "VirtualDiskFlatVer2BackingInfo"
_KIB: Final = 1024


def type_of(entry: FileEntry) -> str:
    """Return the type of a file by its name; a disk is what has a descriptor."""
    if entry.folder:
        return "FolderFileInfo"
    if entry.disk is not None:
        return _DISK
    return _TYPES.get(entry.name.rpartition(".")[2].lower(), "FileInfo")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a SearchSpec asks for: ``queries`` by the type of file, and the details to tell."""

    queries: Mapping[str, Obj] = field(default_factory=dict)
    details: Obj | None = None
    folders_first: bool = False

    @property
    def typed(self) -> bool:
        """Whether files are told by their types."""
        return bool(self.queries) or _flag(self.details, "fileType")

    def info(self, entry: FileEntry) -> Obj | None:
        """Return a file as it is told; None: it was not asked for."""
        kind = type_of(entry)
        query = self.queries.get(kind) or self.queries.get("FileInfo")
        if self.queries and query is None:
            return None
        values: dict[str, Value] = {"path": entry.name}
        if _flag(self.details, "fileSize"):
            values["fileSize"] = entry.size
        if _flag(self.details, "modification"):
            values["modification"] = moment(entry.modified)
        if _flag(self.details, "fileOwner"):
            values["owner"] = entry.owner
        if entry.disk is not None and query is not None and query.type == "VmDiskFileQuery":
            told = _disk(entry.disk)
            if not _passes(query.get("filter"), told):
                return None
            flags = query.get("details")
            wanted = flags if isinstance(flags, Obj) else None
            values |= {name: value for name, value in told.items() if _flag(wanted, name)}
        return Obj(kind if self.typed else "FileInfo", **values)


def wish_of(spec: Value) -> Wish:
    """Read a SearchSpec."""
    if not isinstance(spec, Obj):
        return Wish()
    queries = spec.get("query")
    details = spec.get("details")
    return Wish(
        {
            one.type.replace("Query", "Info"): one
            for one in (queries if isinstance(queries, tuple) else ())
            if isinstance(one, Obj)
        },
        details if isinstance(details, Obj) else None,
        spec.get("sortFoldersFirst") is True,
    )


def results(store: DatastoreFact, folders: Iterable[FolderEntry], wish: Wish) -> tuple[Obj, ...]:
    """Return the search's results, one of each folder."""
    return tuple(_result(store, folder, wish) for folder in folders)


def _result(datastore: DatastoreFact, folder: FolderEntry, wish: Wish) -> Obj:
    files = folder.files
    if wish.folders_first:
        files = tuple(sorted(files, key=lambda entry: not entry.folder))
    shown = datastorepath.show(datastore.name, folder.path)
    return Obj(
        "HostDatastoreBrowserSearchResults",
        datastore=MoRef("Datastore", datastore.datastore),
        folderPath=f"{shown}/" if folder.path else shown,
        file=tuple(info for entry in files if (info := wish.info(entry)) is not None),
    )


def _disk(disk: DiskEntry) -> dict[str, Value]:
    return {
        "diskType": _BACKINGS.get(disk.kind, _FLAT),
        "capacityKb": disk.capacity // _KIB,
        "hardwareVersion": disk.hardware,
        "controllerType": _CONTROLLERS.get(disk.adapter, "VirtualLsiLogicController"),
        "thin": disk.thin,
    }


def _passes(wanted: Value, told: Mapping[str, Value]) -> bool:
    """Tell whether a disk is one of those that a filter lets through."""
    if not isinstance(wanted, Obj):
        return True
    for name, known in (
        ("diskType", "diskType"),
        ("controllerType", "controllerType"),
        ("matchHardwareVersion", "hardwareVersion"),
    ):
        options = wanted.get(name)
        if isinstance(options, tuple) and options and told[known] not in options:
            return False
    thin = wanted.get("thin")
    return wanted.get("encrypted") is not True and (thin is None or thin == told["thin"])


def _flag(flags: Obj | None, name: str) -> bool:
    return flags is not None and flags.get(name) is True
