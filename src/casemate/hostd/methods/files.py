"""The files of datastores: searching them, making, copying, moving and removing them."""

from __future__ import annotations

from urllib.parse import urlsplit

from casemate.calls import files as c
from casemate.calls.messages import Empty, TaskReply
from casemate.formats import datastorepath
from casemate.hostd.kernelclient import RefusedError
from casemate.hostd.objects.files import results, wish_of
from casemate.hostd.objects.inventory import browser
from casemate.hostd.owntask import ended
from casemate.hostd.registry import Context, Handler, Ring, Served
from casemate.hostd.selection import objs, text, texts
from casemate.hostd.soap import fault_of
from casemate.hostd.tickets import PREFIXES
from casemate.hostd.wellknown import HOST_BROWSER
from casemate.machine.facts import DatastoreFact
from casemate.vim25 import faults
from casemate.vim25.faults import FaultError
from casemate.vim25.values import MoRef, Obj, Typed, Value

BROWSE = c.SearchFiles.privilege
CHANGE = c.DeleteFile.privilege
WHY = "vSphere API"

_RESULTS = "HostDatastoreBrowserSearchResults"
_HTTP = "SessionManagerHttpServiceRequestSpec"


def place(context: Context, argument: str, privilege: str) -> tuple[DatastoreFact, str]:
    """Return datastore and path of a datastore path. Raises FaultError, DatastorePathError."""
    name, path = datastorepath.parse(text(context.arguments.get(argument)))
    for fact in context.replica.world.datastores.values():
        if name in {fact.name, fact.datastore}:
            context.reader.allow(MoRef("Datastore", fact.datastore), privilege)
            return fact, path
    raise FaultError(Obj("InvalidDatastore", name=name), f"There is no datastore {name}.")


def _search(*, recursive: bool) -> Handler:
    async def handler(context: Context) -> Value:
        fact, path = place(context, "datastorePath", BROWSE)
        if context.this not in {HOST_BROWSER, browser(fact.datastore)}:
            raise FaultError(
                Obj("InvalidDatastore", name=fact.name), f"{fact.name} is another datastore."
            )
        spec = context.arguments.get("searchSpec")
        wish = wish_of(spec)
        request = c.SearchFiles(
            context.who.handle,
            fact.datastore,
            path,
            texts(spec.get("matchPattern")) if isinstance(spec, Obj) else (),
            recursive,
            isinstance(spec, Obj) and spec.get("searchCaseInsensitive") is True,
            wish.typed,
        )
        outcome: Value | FaultError
        try:
            reply = await context.link.ask(request, c.FoldersReply)
        except RefusedError as error:
            outcome = fault_of(error, context.this)
        else:
            found = results(fact, reply.folders, wish)
            outcome = Typed(_RESULTS, found, array=True) if recursive else found[0]
        method = "SearchDatastoreSubFolders_Task" if recursive else "SearchDatastore_Task"
        return ended(context, method, MoRef("Datastore", fact.datastore), outcome)

    return handler


async def _make_directory(context: Context) -> Value:
    fact, path = place(context, "name", CHANGE)
    parents = context.arguments.get("createParentDirectories") is True
    request = c.MakeDirectory(context.who.handle, fact.datastore, path, parents, WHY)
    await context.link.ask(request, Empty)
    return None


async def _delete(context: Context) -> Value:
    fact, path = place(context, "name", CHANGE)
    request = c.DeleteFile(context.who.handle, fact.datastore, path, WHY)
    return MoRef("Task", (await context.link.ask(request, TaskReply)).task)


def _to_other(kind: type[c.MoveFile | c.CopyFile]) -> Handler:
    async def handler(context: Context) -> Value:
        fact, path = place(context, "sourceName", CHANGE)
        goal, to_path = place(context, "destinationName", CHANGE)
        request = kind(
            context.who.handle,
            fact.datastore,
            path,
            goal.datastore,
            to_path,
            context.arguments.get("force") is True,
            WHY,
        )
        return MoRef("Task", (await context.link.ask(request, TaskReply)).task)

    return handler


async def _refresh(context: Context) -> Value:
    await context.link.ask(c.RefreshStorage(context.who.handle), Empty)
    return None


async def _rescan_one(context: Context) -> Value:
    device = text(context.arguments.get("hbaDevice"))
    shown = context.reader.value(context.this, "storageDeviceInfo")
    adapters = objs(shown.get("hostBusAdapter")) if isinstance(shown, Obj) else ()
    if device not in {text(one.get("device")) for one in adapters}:
        raise FaultError(Obj("NotFound"), f"There is no adapter {device:.80}.")
    return await _refresh(context)


async def _create_datastore(context: Context) -> Value:
    name, path = text(context.arguments.get("name")), text(context.arguments.get("path"))
    if path.rstrip("/") != f"/vmfs/volumes/{name}":
        raise FaultError(
            Obj("HostConfigFault"),
            f"A datastore is a directory beside the others: give /vmfs/volumes/{name[:80]}.",
        )
    request = c.CreateDatastore(context.who.handle, name, WHY)
    made = (await context.link.ask(request, c.DatastoreReply)).datastore
    await context.replica.until(lambda: made in context.replica.world.datastores)
    return MoRef("Datastore", made)


async def _remove_datastore(context: Context) -> Value:
    ref = context.arguments.get("datastore")
    if not isinstance(ref, MoRef):
        raise faults.invalid_argument("datastore", "Name a datastore.")
    context.reader.require(ref)
    await context.link.ask(c.RemoveDatastore(context.who.handle, ref.value, WHY), Empty)
    await context.replica.until(lambda: ref.value not in context.replica.world.datastores)
    return None


async def _ticket(context: Context) -> Value:
    session = context.who
    spec = context.arguments.get("spec")
    if not isinstance(spec, Obj) or spec.type != _HTTP:
        raise faults.invalid_argument("spec", "Tickets are given for HTTP requests only.")
    method, url = text(spec.get("method")) or "httpGet", text(spec.get("url"))
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise faults.invalid_argument("spec.url", "This is not a URL.") from error
    if not method.startswith("http") or not parts.path.startswith(PREFIXES):
        raise faults.invalid_argument("spec.url", "Tickets are given for files of datastores only.")
    world = context.replica.world
    return Obj(
        "SessionManagerGenericServiceTicket",
        id=context.sessions.tickets.issue(
            session.handle, method.removeprefix("http").upper(), parts.path, parts.query
        ),
        hostName=world.host.name,
        sslThumbprint=world.endpoint.thumbprint or None,
        ticketType="HttpServiceTicket",
    )


_BROWSER = "HostDatastoreBrowser"
_FILES = "FileManager"
_STORE = "Datastore"
_MAY_BROWSE = f"{BROWSE} on the datastore"
_MAY_CHANGE = f"{CHANGE} on each datastore named"

_STORAGE = "Host.Config.Storage"
_READ = "datastores are looked at with System.Read"

FILE_METHODS = (
    Served(
        _BROWSER,
        "SearchDatastore_Task",
        "System.View",
        _search(recursive=False),
        (c.SearchFiles,),
        rule=_MAY_BROWSE,
    ),
    Served(
        _BROWSER,
        "SearchDatastoreSubFolders_Task",
        "System.View",
        _search(recursive=True),
        (c.SearchFiles,),
        rule=_MAY_BROWSE,
    ),
    Served(
        _FILES,
        "MakeDirectory",
        "System.View",
        _make_directory,
        (c.MakeDirectory,),
        rule=_MAY_CHANGE,
    ),
    Served(
        _FILES,
        "DeleteDatastoreFile_Task",
        "System.View",
        _delete,
        (c.DeleteFile,),
        rule=_MAY_CHANGE,
    ),
    Served(
        _FILES,
        "MoveDatastoreFile_Task",
        "System.View",
        _to_other(c.MoveFile),
        (c.MoveFile,),
        rule=_MAY_CHANGE,
    ),
    Served(
        _FILES,
        "CopyDatastoreFile_Task",
        "System.View",
        _to_other(c.CopyFile),
        (c.CopyFile,),
        rule=_MAY_CHANGE,
    ),
    Served("Datastore", "RefreshDatastore", "System.Read", _refresh, (c.RefreshStorage,)),
    # Linux tells of disks by itself: what is looked at again is what the datastores hold.
    *(
        Served(
            *("HostStorageSystem", name, _STORAGE, _refresh, (c.RefreshStorage,)),
            ring=Ring.HOST,
            rule=_READ,
        )
        for name in ("RescanAllHba", "RescanVmfs", "RefreshStorageSystem")
    ),
    Served(
        "HostStorageSystem",
        "RescanHba",
        _STORAGE,
        _rescan_one,
        (c.RefreshStorage,),
        ring=Ring.HOST,
        rule=_READ,
    ),
    Served(
        "Datastore", "RefreshDatastoreStorageInfo", "System.Read", _refresh, (c.RefreshStorage,)
    ),
    Served(
        "HostDatastoreSystem",
        "CreateLocalDatastore",
        c.CreateDatastore.privilege,
        _create_datastore,
        (c.CreateDatastore,),
        ring=Ring.COMPATIBILITY,
    ),
    Served(
        "HostDatastoreSystem",
        "RemoveDatastore",
        c.RemoveDatastore.privilege,
        _remove_datastore,
        (c.RemoveDatastore,),
        ring=Ring.COMPATIBILITY,
    ),
    Served(
        "SessionManager",
        "AcquireGenericServiceTicket",
        "System.Anonymous",
        _ticket,
        ring=Ring.HOST,
        rule="a session; the ticket gives what the session may, for one request",
        session=True,
    ),
)
