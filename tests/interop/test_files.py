"""pyVmomi, unmodified, and plain HTTP, on the files of a datastore."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import re
import ssl
from base64 import b64encode
from collections.abc import Iterator
from http.client import HTTPResponse, HTTPSConnection
from pathlib import Path

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim, vmodl

from casemate.formats import streamvmdk
from casemate.testing.fakekernel import PASSWORD, READER, USER, FakeKernel
from casemate.testing.hostsimulator import HostSimulator

pytestmark = [
    pytest.mark.interop,
    # pyVmomi leaves a connection open after a failed login.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
QUERY = "?dcPath=ha-datacenter&dsName=datastore1"
DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="monolithicFlat"
RW 8192 FLAT "one-flat.vmdk" 0
ddb.adapterType = "lsilogic"
ddb.virtualHWVersion = "21"
ddb.thinProvisioned = "1"
"""
BASIC = {"Authorization": "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
ONLY_READS = {"Authorization": "Basic " + b64encode(f"{READER}:{PASSWORD}".encode()).decode()}


@pytest.fixture(scope="module", autouse=True)
def _what_pyvmomi_leaves() -> Iterator[None]:
    """Have it collected here, not in somebody else's test."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostSimulator]:
    volumes = tmp_path_factory.mktemp("volumes")
    place = volumes / "datastore1"
    (place / "vm1").mkdir(parents=True)
    (place / "vm1/vm1.vmx").write_text("x")
    (place / "disks").mkdir()
    (place / "disks/one.vmdk").write_text(DESCRIPTOR)
    (place / "disks/one-flat.vmdk").write_bytes(bytes(8192 * 512))
    (place / "disks/debian.iso").write_bytes(b"iso")
    with HostSimulator(FakeKernel(vms=1, volumes=volumes)).running() as running:
        running.store = place
        yield running


@pytest.fixture
def store(simulator: HostSimulator) -> Path:
    return simulator.store


@pytest.fixture
def si(simulator: HostSimulator) -> Iterator[vim.ServiceInstance]:
    trust = ssl.create_default_context(cadata=simulator.certificate.decode())
    instance = SmartConnect(
        host="127.0.0.1", port=simulator.port, user=USER, pwd=PASSWORD, sslContext=trust
    )
    try:
        yield instance
    finally:
        Disconnect(instance)
        instance._stub.DropConnections()


@contextlib.contextmanager
def asked(
    simulator: HostSimulator, method: str, path: str, body: object = None, **headers: str
) -> Iterator[HTTPResponse]:
    trust = ssl.create_default_context(cadata=simulator.certificate.decode())
    connection = HTTPSConnection("127.0.0.1", simulator.port, context=trust, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, named)
        yield connection.getresponse()
    finally:
        connection.close()


def datastore(si: vim.ServiceInstance) -> vim.Datastore:
    return si.content.rootFolder.childEntity[0].datastore[0]


def search(si: vim.ServiceInstance, path: str, *, deep: bool = False, **spec: object) -> object:
    wanted = vim.host.DatastoreBrowser.SearchSpec(**spec)
    browser = datastore(si).browser
    method = browser.SearchDatastoreSubFolders_Task if deep else browser.SearchDatastore_Task
    task = method(path, wanted)
    WaitForTask(task)
    return task.info.result


EVERYTHING = vim.host.DatastoreBrowser.FileInfo.Details(
    fileType=True, fileSize=True, modification=True, fileOwner=True
)


def test_a_search_tells_types_sizes_and_times(si: vim.ServiceInstance) -> None:
    found = search(si, "[datastore1] disks", details=EVERYTHING, matchPattern=["*"])
    assert found.folderPath == "[datastore1] disks/"
    assert found.datastore == datastore(si)
    files = {file.path: file for file in found.file}
    assert type(files["debian.iso"]) is vim.host.DatastoreBrowser.IsoImageInfo
    assert files["debian.iso"].fileSize == 3
    assert files["debian.iso"].modification.tzinfo is not None
    assert type(files["one.vmdk"]) is vim.host.DatastoreBrowser.VmDiskInfo
    assert type(files["one-flat.vmdk"]) is vim.host.DatastoreBrowser.FileInfo
    top = search(si, "[datastore1]", details=EVERYTHING)
    assert top.folderPath == "[datastore1]"
    assert {type(file) for file in top.file} == {vim.host.DatastoreBrowser.FolderInfo}


def test_without_details_only_names_are_told(si: vim.ServiceInstance) -> None:
    (file,) = search(si, "[datastore1] disks", matchPattern=["*.iso"]).file
    assert (type(file), file.path, file.fileSize) == (
        vim.host.DatastoreBrowser.FileInfo,
        "debian.iso",
        None,
    )


def test_a_query_for_disks_finds_descriptors_with_what_they_say(si: vim.ServiceInstance) -> None:
    browser = vim.host.DatastoreBrowser
    flags = browser.VmDiskQuery.Details(
        diskType=True, capacityKb=True, hardwareVersion=True, controllerType=True, thin=True
    )
    (found,) = search(
        si, "[datastore1]", deep=True, query=[browser.VmDiskQuery(details=flags)], details=None
    )[1:2]
    (disk,) = found.file
    assert (disk.path, disk.capacityKb, disk.thin, disk.hardwareVersion) == (
        "one.vmdk",
        4096,
        True,
        21,
    )
    thick = browser.VmDiskQuery(filter=browser.VmDiskQuery.Filter(thin=False))
    assert not search(si, "[datastore1] disks", query=[thick]).file


def test_a_search_of_sub_folders_gives_paths_to_put_before_names(si: vim.ServiceInstance) -> None:
    found = search(si, "[datastore1]", deep=True, matchPattern=["*.vmx"])
    paths = [one.folderPath + file.path for one in found for file in one.file]
    assert paths == ["[datastore1] vm1/vm1.vmx"]


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("[datastore1] nowhere", vim.fault.FileNotFound),
        ("[datastore1] disks/debian.iso", vim.fault.FileNotFound),
        ("[datastore1] ../..", vim.fault.InvalidDatastorePath),
        ("disks", vim.fault.InvalidDatastorePath),
        ("[other] disks", vim.fault.InvalidDatastore),
    ],
)
def test_a_search_elsewhere_is_the_fault_that_esxi_gives(
    si: vim.ServiceInstance, path: str, fault: type
) -> None:
    with pytest.raises(fault):
        search(si, path)


def test_the_life_of_a_file(si: vim.ServiceInstance, store: Path) -> None:
    files, dc = si.content.fileManager, si.content.rootFolder.childEntity[0]
    files.MakeDirectory("[datastore1] a/b", dc, True)
    with pytest.raises(vim.fault.FileAlreadyExists):
        files.MakeDirectory("[datastore1] a/b", dc)
    with pytest.raises(vim.fault.FileNotFound):
        files.MakeDirectory("[datastore1] x/y", dc)
    WaitForTask(
        files.CopyDatastoreFile_Task(
            "[datastore1] disks/debian.iso", dc, "[datastore1] a/copy.iso", dc
        )
    )
    assert (store / "a/copy.iso").read_bytes() == b"iso"
    WaitForTask(
        files.MoveDatastoreFile_Task("[datastore1] a/copy.iso", dc, "[datastore1] a/b/new.iso")
    )
    with pytest.raises(vim.fault.FileAlreadyExists):
        WaitForTask(
            files.CopyDatastoreFile_Task(
                "[datastore1] disks/debian.iso", dc, "[datastore1] a/b/new.iso", dc
            )
        )
    WaitForTask(
        files.CopyDatastoreFile_Task("[datastore1] a", dc, "[datastore1] c", dc, force=True)
    )
    assert (store / "c/b/new.iso").read_bytes() == b"iso"
    task = files.DeleteDatastoreFile_Task("[datastore1] a", dc)
    WaitForTask(task)
    assert task.info.descriptionId == "FileManager.deleteFile"
    WaitForTask(files.DeleteDatastoreFile_Task("[datastore1] c", dc))
    assert sorted(one.name for one in store.iterdir()) == ["disks", "vm1"]
    with pytest.raises(vim.fault.FileNotFound):
        WaitForTask(files.DeleteDatastoreFile_Task("[datastore1] a", dc))


@pytest.mark.parametrize("path", ["vm1/vm1.vmx", "vm1", "vm1/vm1.vmdk", "vm1/vm1.nvram"])
def test_what_a_registered_vm_owns_is_locked(
    si: vim.ServiceInstance, simulator: HostSimulator, path: str
) -> None:
    files = si.content.fileManager
    with pytest.raises(vim.fault.FileLocked):
        files.DeleteDatastoreFile_Task(f"[datastore1] {path}")
    with pytest.raises(vim.fault.FileLocked):
        files.MoveDatastoreFile_Task(f"[datastore1] {path}", None, "[datastore1] x")
    with asked(simulator, "PUT", f"/folder/{path}{QUERY}", b"x", **BASIC) as reply:
        assert reply.status == 409


def test_a_file_goes_up_and_comes_down(simulator: HostSimulator, store: Path) -> None:
    content = bytes(range(256)) * 8000
    place = f"/folder/disks/up%20load.bin{QUERY}"
    with asked(simulator, "PUT", place, content, **BASIC) as reply:
        assert reply.status == 201
    assert (store / "disks/up load.bin").read_bytes() == content
    with asked(simulator, "GET", place, **BASIC) as reply:
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/octet-stream"
        assert reply.headers["content-disposition"].startswith("attachment")
        assert "sandbox" in reply.headers["content-security-policy"]
        assert reply.read() == content
    with asked(simulator, "HEAD", place, **BASIC) as reply:
        assert (reply.status, reply.headers["content-length"]) == (200, str(len(content)))
    for asked_range, expected in (
        ("bytes=5-9", content[5:10]),
        ("bytes=-3", content[-3:]),
        (f"bytes={len(content) - 2}-", content[-2:]),
    ):
        with asked(simulator, "GET", place, Range=asked_range, **BASIC) as reply:
            assert (reply.status, reply.read()) == (206, expected)
    with asked(simulator, "GET", place, Range="bytes=9999999-", **BASIC) as reply:
        assert reply.status == 416
    with asked(simulator, "PUT", place, iter([b"ab", b"c"]), **BASIC) as reply:
        assert reply.status == 200
    assert (store / "disks/up load.bin").read_bytes() == b"abc"
    (store / "disks/up load.bin").unlink()


def test_an_upload_makes_its_folder_and_a_file_not_a_folder_is_deleted(
    simulator: HostSimulator, store: Path
) -> None:
    place = f"/folder//etc/new/passwd{QUERY}"
    with asked(simulator, "PUT", place, b"x", **BASIC) as reply:
        assert reply.status == 201
    assert (store / "etc/new/passwd").read_bytes() == b"x"
    for path, status in (("etc/new", 405), ("etc/new/passwd", 204), ("etc/new/passwd", 404)):
        with asked(simulator, "DELETE", f"/folder/{path}{QUERY}", **BASIC) as reply:
            assert reply.status == status
    with asked(simulator, "DELETE", f"/folder/vm1/vm1.vmx{QUERY}", **BASIC) as reply:
        assert reply.status == 409
    (store / "etc/new").rmdir()
    (store / "etc").rmdir()


def test_a_ticket_is_good_for_its_request_once(
    si: vim.ServiceInstance, simulator: HostSimulator
) -> None:
    url = f"https://127.0.0.1:{simulator.port}/folder/disks/debian.iso{QUERY}"
    spec = vim.SessionManager.HttpServiceRequestSpec(method="httpGet", url=url)
    ticket = si.content.sessionManager.AcquireGenericServiceTicket(spec)
    cookie = f"vmware_cgi_ticket={ticket.id}"
    path = f"/folder/disks/debian.iso{QUERY}"
    with asked(simulator, "GET", f"/folder/disks/one.vmdk{QUERY}", Cookie=cookie) as reply:
        assert reply.status == 401
    with asked(simulator, "PUT", path, b"x", Cookie=cookie) as reply:
        assert reply.status == 401
    with asked(simulator, "GET", path, Cookie=cookie) as reply:
        assert (reply.status, reply.read()) == (200, b"iso")
    with asked(simulator, "GET", path, Cookie=cookie) as reply:
        assert reply.status == 401


def test_the_cookie_of_a_session_is_enough(
    si: vim.ServiceInstance, simulator: HostSimulator
) -> None:
    with asked(
        simulator, "GET", f"/folder/disks/debian.iso{QUERY}", Cookie=si._stub.cookie
    ) as reply:
        assert reply.read() == b"iso"


def test_nobody_and_who_lacks_the_privilege_get_nothing(
    simulator: HostSimulator, store: Path
) -> None:
    for method in ("GET", "HEAD", "PUT"):
        with asked(simulator, method, f"/folder/disks/debian.iso{QUERY}", b"x") as reply:
            assert reply.status == 401
            assert "Basic" in reply.headers["www-authenticate"]
        with asked(
            simulator, method, f"/folder/disks/debian.iso{QUERY}", b"x", **ONLY_READS
        ) as reply:
            assert reply.status == 403
    assert (store / "disks/debian.iso").read_bytes() == b"iso"


@pytest.mark.parametrize(
    "path",
    [
        "/folder/../secret",
        "/folder/%2e%2e/secret",
        "/folder/disks/..%2f..%2fsecret",
        "/folder/link/secret",
        "/folder/out",
        "/folder/.casemate-x",
        "/folder/disks/a%00b",
    ],
)
def test_nothing_outside_of_the_datastore_is_reached(
    simulator: HostSimulator, store: Path, path: str
) -> None:
    (store.parent / "secret").write_text("secret")
    (store / "link").symlink_to("..")
    (store / "out").symlink_to("../secret")
    try:
        for method in ("GET", "PUT"):
            with asked(simulator, method, path + QUERY, b"planted", **BASIC) as reply:
                assert reply.status in {400, 404, 409}
    finally:
        (store / "link").unlink()
        (store / "out").unlink()
    assert (store.parent / "secret").read_text() == "secret"


def test_an_upload_that_breaks_off_leaves_what_was_there(
    simulator: HostSimulator, store: Path
) -> None:
    trust = ssl.create_default_context(cadata=simulator.certificate.decode())
    connection = HTTPSConnection("127.0.0.1", simulator.port, context=trust, timeout=60)
    connection.putrequest("PUT", f"/folder/disks/debian.iso{QUERY}")
    connection.putheader("Content-Length", "1000000")
    connection.putheader("Authorization", BASIC["Authorization"])
    connection.endheaders()
    connection.send(b"half")
    connection.close()
    with asked(simulator, "GET", f"/folder/disks{QUERY}", **BASIC) as reply:
        page = reply.read().decode()
    assert "debian.iso" in page
    assert ".casemate-" not in page
    assert (store / "disks/debian.iso").read_bytes() == b"iso"


def test_an_upload_larger_than_the_datastore_is_refused_at_once(
    simulator: HostSimulator, store: Path
) -> None:
    trust = ssl.create_default_context(cadata=simulator.certificate.decode())
    connection = HTTPSConnection("127.0.0.1", simulator.port, context=trust, timeout=60)
    connection.putrequest("PUT", f"/folder/disks/huge.iso{QUERY}")
    connection.putheader("Content-Length", str(1 << 60))
    connection.putheader("Authorization", BASIC["Authorization"])
    connection.endheaders()
    assert connection.getresponse().status == 507
    connection.close()
    assert not (store / "disks/huge.iso").exists()


def test_the_index_shows_names_as_text(simulator: HostSimulator, store: Path) -> None:
    (store / "disks/<b>&.txt").write_text("x")
    with asked(simulator, "GET", f"/folder/disks{QUERY}", **BASIC) as reply:
        page = reply.read().decode()
    (store / "disks/<b>&.txt").unlink()
    assert "&lt;b&gt;&amp;.txt" in page
    assert "<b>" not in page
    with asked(simulator, "GET", "/folder", **BASIC) as reply:
        assert "dsName=datastore1" in reply.read().decode()


def test_the_life_of_a_disk(si: vim.ServiceInstance, store: Path) -> None:
    disks = si.content.virtualDiskManager
    (store / "made").mkdir()
    spec = vim.VirtualDiskManager.FileBackedVirtualDiskSpec(
        diskType="thin", adapterType="lsiLogic", capacityKb=2048
    )
    task = disks.CreateVirtualDisk_Task("[datastore1] made/a.vmdk", None, spec)
    WaitForTask(task)
    assert task.info.result == "[datastore1] made/a.vmdk"
    content = b"boot" + bytes(2 * 1024 * 1024 - 8) + b"end!"
    (store / "made/a-flat.vmdk").write_bytes(content)
    assert disks.QueryVirtualDiskUuid("[datastore1] made/a.vmdk").startswith("60 00 c2 9")
    thick = vim.VirtualDiskManager.VirtualDiskSpec(diskType="preallocated", adapterType="lsiLogic")
    WaitForTask(
        disks.CopyVirtualDisk_Task(
            "[datastore1] made/a.vmdk", None, "[datastore1] made/b.vmdk", None, thick
        )
    )
    assert (store / "made/b-flat.vmdk").read_bytes() == content
    assert "thinProvisioned" not in (store / "made/b.vmdk").read_text()
    with pytest.raises(vim.fault.FileAlreadyExists):
        WaitForTask(
            disks.CopyVirtualDisk_Task(
                "[datastore1] made/a.vmdk", None, "[datastore1] made/b.vmdk", None
            )
        )
    # However the path is written: a disk that replaces itself would be gone.
    os.link(store / "made/a.vmdk", store / "made/link.vmdk")
    for again in ("made/a.vmdk", "made//a.vmdk", "made/a.vmdk/", "made/link.vmdk"):
        for replace in (disks.CopyVirtualDisk_Task, disks.MoveVirtualDisk_Task):
            with pytest.raises((vim.fault.FileAlreadyExists, vim.fault.InvalidDatastorePath)):
                WaitForTask(
                    replace(
                        "[datastore1] made/a.vmdk", None, f"[datastore1] {again}", None, force=True
                    )
                )
    (store / "made/link.vmdk").unlink()
    assert (store / "made/a-flat.vmdk").read_bytes() == content
    WaitForTask(
        disks.MoveVirtualDisk_Task(
            "[datastore1] made/b.vmdk", None, "[datastore1] made/c.vmdk", None
        )
    )
    WaitForTask(disks.ExtendVirtualDisk_Task("[datastore1] made/c.vmdk", None, 4096))
    assert (store / "made/c-flat.vmdk").stat().st_size == 4 << 20
    assert (store / "made/c-flat.vmdk").read_bytes()[: len(content)] == content
    with pytest.raises(vmodl.fault.InvalidArgument):
        WaitForTask(disks.ExtendVirtualDisk_Task("[datastore1] made/c.vmdk", None, 1024))
    for name in ("a", "c"):
        WaitForTask(disks.DeleteVirtualDisk_Task(f"[datastore1] made/{name}.vmdk"))
    assert list((store / "made").iterdir()) == []
    with pytest.raises(vim.fault.FileNotFound):
        WaitForTask(disks.DeleteVirtualDisk_Task("[datastore1] made/a.vmdk"))
    (store / "made").rmdir()


def test_an_exported_disk_is_copied_to_a_flat_one(si: vim.ServiceInstance, store: Path) -> None:
    content = random.Random(7).randbytes(200_000).ljust(1 << 20, b"\0")
    pieces = streamvmdk.write(1 << 20, lambda at, size: content[at : at + size], name="s.vmdk")
    (store / "disks/s.vmdk").write_bytes(b"".join(pieces))
    disks = si.content.virtualDiskManager
    WaitForTask(
        disks.CopyVirtualDisk_Task(
            "[datastore1] disks/s.vmdk", None, "[datastore1] disks/flat.vmdk", None
        )
    )
    assert (store / "disks/flat-flat.vmdk").read_bytes() == content
    (store / "disks/s.vmdk").write_bytes((store / "disks/s.vmdk").read_bytes()[:-2048])
    with pytest.raises(vmodl.RuntimeFault):
        WaitForTask(
            disks.CopyVirtualDisk_Task(
                "[datastore1] disks/s.vmdk", None, "[datastore1] disks/cut.vmdk", None
            )
        )
    assert not (store / "disks/cut.vmdk").exists()
    assert not (store / "disks/cut-flat.vmdk").exists()
    for name in ("flat", "s"):
        WaitForTask(disks.DeleteVirtualDisk_Task(f"[datastore1] disks/{name}.vmdk"))


def test_a_disk_tells_its_kind_to_those_who_ask_as_a_real_host_s_clients_do(
    si: vim.ServiceInstance, simulator: HostSimulator
) -> None:
    datacenter = si.content.rootFolder.childEntity[0]
    disks = si.content.virtualDiskManager
    spec = vim.VirtualDiskManager.FileBackedVirtualDiskSpec(
        diskType="preallocated", adapterType="lsiLogic", capacityKb=1024
    )
    name = "[datastore1] disks/kind.vmdk"
    WaitForTask(disks.CreateVirtualDisk_Task(name, datacenter, spec))
    envelope = (
        '<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>'
        '<QueryVirtualDiskInfo_Task xmlns="urn:internalvim25">'
        f'<_this type="VirtualDiskManager">ha-vdiskmanager</_this><name>{name}</name>'
        "<includeParents>true</includeParents></QueryVirtualDiskInfo_Task></Body></Envelope>"
    )
    cookie = si._stub.cookie.partition(";")[0]
    with asked(simulator, "POST", "/sdk", envelope.encode(), Cookie=cookie) as reply:
        key = re.search(r'<returnval type="Task">([^<]*)<', reply.read().decode())[1]
    read = (
        '<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>'
        '<Fetch xmlns="urn:vim25">'
        f'<_this type="Task">{key}</_this><prop>info</prop></Fetch></Body></Envelope>'
    )
    with asked(simulator, "POST", "/sdk", read.encode(), Cookie=cookie) as reply:
        info = reply.read().decode()
    assert f"<unit><name>{name}</name></unit><diskType>preallocated</diskType>" in info
    assert 'xsi:type="ArrayOfVirtualDiskInfo"' in info
    WaitForTask(disks.DeleteVirtualDisk_Task(name, datacenter))
