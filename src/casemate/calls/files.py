"""Requests about the files of datastores: look, read, write, make, copy, move, remove.

``datastore`` is the datastore's id, ``path`` leads from it to the file (empty: the datastore
itself). A request of ``TRANSFERS`` turns its connection into one transfer of a file's content, in
pieces: whoever asked never holds the file, and the kernel may end the transfer at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from casemate.calls.messages import Empty, TaskReply

CHUNK_LIMIT: Final = 1 << 20
"""Bytes of one piece of a transfer; each is led by its length (four bytes, big-endian), and a
piece without bytes ends the file. A connection that ends without it: the file is not whole."""


@dataclass(frozen=True, slots=True)
class DiskEntry:
    """A virtual disk as its descriptor says: ``capacity`` in bytes; ``kind`` is its createType."""

    capacity: int
    kind: str
    adapter: str
    hardware: int
    thin: bool


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file or folder: ``size`` in bytes, ``modified`` in Unix seconds, ``owner`` a name.

    A disk's size is what its extents take on the datastore.
    """

    name: str
    folder: bool
    size: int
    modified: float
    owner: str
    disk: DiskEntry | None = None


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """What was found in a folder, by name."""

    path: str
    files: tuple[FileEntry, ...]


@dataclass(frozen=True, slots=True)
class FoldersReply:
    """What was found: the folder that was asked about first."""

    folders: tuple[FolderEntry, ...]


@dataclass(frozen=True, slots=True)
class FileReply:
    """One file or folder."""

    file: FileEntry


@dataclass(frozen=True, slots=True)
class WriteReply:
    """The kernel takes pieces; ``replaces``: there is such a file, which stays until the end."""

    replaces: bool


@dataclass(frozen=True, slots=True)
class SearchFiles:
    """Look into a folder, and into those below if ``recursive``.

    ``patterns`` are of file names, with ``*`` and ``?``; ``disks`` reads the descriptors too.
    """

    session: str
    datastore: str
    path: str
    patterns: tuple[str, ...] = ()
    recursive: bool = False
    any_case: bool = False
    disks: bool = False
    reply: ClassVar = FoldersReply
    privilege: ClassVar[str] = "Datastore.Browse"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class StatFile:
    """Look at one file or folder."""

    session: str
    datastore: str
    path: str
    reply: ClassVar = FileReply
    privilege: ClassVar[str] = "Datastore.Browse"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class ReadFile:
    """Send ``length`` bytes of a file from ``offset`` on: the reply, then the pieces."""

    session: str
    datastore: str
    path: str
    offset: int
    length: int
    why: str = ""
    reply: ClassVar = FileReply
    privilege: ClassVar[str] = "Datastore.FileManagement"


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Take a file's content; it replaces what is there in one step when it is complete.

    ``size`` is what was announced, -1 if nothing was. A reply goes before the pieces and another
    (``Empty``) after them.
    """

    session: str
    datastore: str
    path: str
    size: int = -1
    why: str = ""
    reply: ClassVar = WriteReply
    privilege: ClassVar[str] = "Datastore.FileManagement"


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """Make a folder, and those above it if ``parents``."""

    session: str
    datastore: str
    path: str
    parents: bool = False
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Datastore.FileManagement"


@dataclass(frozen=True, slots=True)
class DeleteFile:
    """Remove a file, or a folder with all that is in it."""

    session: str
    datastore: str
    path: str
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "Datastore.FileManagement"


@dataclass(frozen=True, slots=True)
class MoveFile:
    """Move a file or folder, also to another datastore; ``force`` replaces a file."""

    session: str
    datastore: str
    path: str
    to_datastore: str
    to_path: str
    force: bool = False
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "Datastore.FileManagement"


@dataclass(frozen=True, slots=True)
class CopyFile:
    """Copy a file or folder, also to another datastore; ``force`` replaces a file."""

    session: str
    datastore: str
    path: str
    to_datastore: str
    to_path: str
    force: bool = False
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "Datastore.FileManagement"


@dataclass(frozen=True, slots=True)
class UuidReply:
    """The UUID of a disk as VMware writes it."""

    uuid: str


@dataclass(frozen=True, slots=True)
class CreateDisk:
    """Make an empty flat disk of ``capacity`` bytes; ``thin``: space is taken when written."""

    session: str
    datastore: str
    path: str
    capacity: int
    thin: bool
    adapter: str
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "Datastore.FileManagement"


@dataclass(frozen=True, slots=True)
class DeleteDisk:
    """Remove a disk: its descriptor and its extent."""

    session: str
    datastore: str
    path: str
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "Datastore.FileManagement"


@dataclass(frozen=True, slots=True)
class CopyDisk:
    """Copy a flat or streamOptimized disk to a flat one; ``thin`` None: as it is."""

    session: str
    datastore: str
    path: str
    to_datastore: str
    to_path: str
    thin: bool | None = None
    force: bool = False
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "Datastore.FileManagement"


@dataclass(frozen=True, slots=True)
class MoveDisk:
    """Move a disk with its extent, also under another name."""

    session: str
    datastore: str
    path: str
    to_datastore: str
    to_path: str
    force: bool = False
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "Datastore.FileManagement"


@dataclass(frozen=True, slots=True)
class ExtendDisk:
    """Make a flat disk larger; ``capacity`` in bytes."""

    session: str
    datastore: str
    path: str
    capacity: int
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "Datastore.FileManagement"


@dataclass(frozen=True, slots=True)
class DiskUuid:
    """The UUID that a disk's descriptor holds."""

    session: str
    datastore: str
    path: str
    reply: ClassVar = UuidReply
    privilege: ClassVar[str] = "Datastore.FileManagement"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class DiskLayer:
    """A disk, or one that lies below it: its datastore path, ``thin`` or ``preallocated``."""

    path: str
    kind: str


@dataclass(frozen=True, slots=True)
class LayersReply:
    """Answer to DiskInfo: the disk, and what lies below it, in order."""

    layers: tuple[DiskLayer, ...]


@dataclass(frozen=True, slots=True)
class DiskInfo:
    """What kind a disk is, and which disks lie below it."""

    session: str
    datastore: str
    path: str
    reply: ClassVar = LayersReply
    privilege: ClassVar[str] = "Datastore.FileManagement"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class RefreshStorage:
    """Look at size and free space of the datastores again."""

    session: str
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "System.Read"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class DatastoreReply:
    """The id of a datastore."""

    datastore: str


@dataclass(frozen=True, slots=True)
class CreateDatastore:
    """Make an empty datastore: a directory beside those that are there."""

    session: str
    name: str
    why: str = ""
    reply: ClassVar = DatastoreReply
    privilege: ClassVar[str] = "Host.Config.Storage"


@dataclass(frozen=True, slots=True)
class RemoveDatastore:
    """Remove an empty datastore."""

    session: str
    datastore: str
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "Host.Config.Storage"


TRANSFERS: tuple[type, ...] = (ReadFile, WriteFile)
"""Requests that turn their connection into a transfer."""

REQUESTS: tuple[type, ...] = (
    CopyDisk,
    CopyFile,
    CreateDatastore,
    CreateDisk,
    DeleteDisk,
    DeleteFile,
    DiskUuid,
    DiskInfo,
    ExtendDisk,
    MakeDirectory,
    MoveDisk,
    MoveFile,
    ReadFile,
    RefreshStorage,
    RemoveDatastore,
    SearchFiles,
    StatFile,
    WriteFile,
)
