"""A running host: an image of a CD goes up, a VM boots beside it, a VM goes out and comes back."""

from __future__ import annotations

import hashlib
import http.client
import random
import ssl
import time
from base64 import b64encode
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim
from tests.host.conftest import TestHost

from casemate.testing.bootcd import boot_cd

pytestmark = [pytest.mark.host, pytest.mark.interop, pytest.mark.timeout(600)]
MIB = 1 << 20
# Real mode: print the text behind it on the first serial port, then halt for ever.
SAYING = (
    bytes.fromhex("e80000 5e 83c615 baf803 2e8a04 46 84c0 7403 ee ebf5 f4 ebfd")
    + b"from the CD\n\0"
)
STREAM = "application/x-vnd.vmware-streamVmdk"


def requested(
    port: int, method: str, url: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPSConnection(
        "localhost",
        port,
        context=ssl._create_unverified_context(),
        timeout=60,
    )
    try:
        query = f"?{parts.query}" if parts.query else ""
        connection.request(method, parts.path + query, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def new_vm(name: str) -> vim.vm.ConfigSpec:
    device, change = vim.vm.device, vim.vm.device.VirtualDeviceSpec
    disk = device.VirtualDisk(
        key=-2,
        controllerKey=-1,
        unitNumber=0,
        capacityInKB=8 * 1024,
        backing=device.VirtualDisk.FlatVer2BackingInfo(
            fileName="", diskMode="persistent", thinProvisioned=True
        ),
    )
    cd = device.VirtualCdrom(
        key=-3,
        controllerKey=200,
        unitNumber=0,
        backing=device.VirtualCdrom.IsoBackingInfo(fileName="[datastore1] iso/tools.iso"),
    )
    controller = device.VirtualLsiLogicController(key=-1, busNumber=0, sharedBus="noSharing")
    return vim.vm.ConfigSpec(
        name=name,
        guestId="otherGuest",
        numCPUs=1,
        memoryMB=64,
        files=vim.vm.FileInfo(vmPathName="[datastore1]"),
        deviceChange=[
            change(operation="add", device=controller),
            change(operation="add", fileOperation="create", device=disk),
            change(operation="add", device=cd),
        ],
    )


def taken_out(
    content: vim.ServiceInstanceContent, one: vim.VirtualMachine, port: int
) -> tuple[bytes, str]:
    """Export a VM of one disk; return the disk and the descriptor."""
    lease = one.ExportVm()
    assert lease.state == "ready"
    with pytest.raises(vim.fault.TaskInProgress):
        WaitForTask(one.PowerOnVM_Task())
    (url,) = lease.info.deviceUrl
    status, exported = requested(port, "GET", url.url.replace("*", "localhost"))
    assert status == 200
    assert lease.HttpNfcLeaseGetManifest()[0].checksum == hashlib.sha256(exported).hexdigest()
    lease.HttpNfcLeaseComplete()
    assert requested(port, "GET", url.url.replace("*", "localhost"))[0] == 404
    file = vim.OvfManager.OvfFile(deviceId=url.key, path="disk-0.vmdk", size=len(exported))
    described = content.ovfManager.CreateDescriptor(
        one, vim.OvfManager.CreateDescriptorParams(ovfFiles=[file])
    )
    return exported, described.ovfDescriptor


def test_files_go_up_and_a_vm_goes_out_and_comes_back(host: TestHost, built: Path) -> None:
    told = host.up("--no-demo")
    password = told["password"] or (built / "password").read_text()
    port, store = host.port, host.home / "volumes/datastore1"
    si = SmartConnect(
        host="localhost", port=port, user="root", pwd=password, disableSslCertValidation=True
    )
    content, dc = si.content, si.content.rootFolder.childEntity[0]
    pool = dc.hostFolder.childEntity[0].resourcePool
    basic = {"Authorization": "Basic " + b64encode(f"root:{password}".encode()).decode()}
    content.fileManager.MakeDirectory("[datastore1] iso", dc)
    filling = random.Random(1).randbytes(3 * MIB)
    head = boot_cd(SAYING)
    image = head + filling[len(head) :]
    iso = "/folder/iso/tools.iso?dcPath=ha-datacenter&dsName=datastore1"
    assert requested(port, "PUT", iso, image, **basic)[0] == 201
    assert requested(port, "GET", iso, None, **basic) == (200, image)

    task = dc.vmFolder.CreateVM_Task(new_vm("one"), pool)
    WaitForTask(task)
    one = task.info.result
    (drive,) = [d for d in one.config.hardware.device if isinstance(d, vim.vm.device.VirtualCdrom)]
    assert drive.backing.fileName == "[datastore1] iso/tools.iso"
    WaitForTask(one.PowerOnVM_Task())
    # Its disk is empty, so it boots what was uploaded.
    for _ in range(1000):
        if "from the CD" in str(host.casemate("vm", "console", "one")[1]):
            break
        time.sleep(0.2)
    assert "from the CD" in str(host.casemate("vm", "console", "one")[1])
    with pytest.raises(vim.fault.FileLocked):
        WaitForTask(content.fileManager.DeleteDatastoreFile_Task("[datastore1] iso/tools.iso"))
    WaitForTask(one.PowerOffVM_Task())

    with (store / "one/one-flat.vmdk").open("r+b") as stream:
        stream.seek(777)
        stream.write(image[: 2 * MIB])
    exported, descriptor = taken_out(content, one, port)

    params = vim.OvfManager.CreateImportSpecParams(
        locale="", deploymentOption="", entityName="two", diskProvisioning="thin"
    )
    made = content.ovfManager.CreateImportSpec(descriptor, pool, dc.datastore[0], params)
    assert not made.error
    lease = pool.ImportVApp(made.importSpec, dc.vmFolder)
    (url,) = lease.info.deviceUrl
    assert url.importKey == made.fileItem[0].deviceId
    body = {"Content-Type": STREAM}
    status, _ = requested(port, "POST", url.url.replace("*", "localhost"), exported, **body)
    assert status == 201
    lease.HttpNfcLeaseProgress(100)
    lease.HttpNfcLeaseComplete()
    assert lease.state == "done"
    assert (store / "two/two-flat.vmdk").read_bytes() == (store / "one/one-flat.vmdk").read_bytes()
    (two,) = [v for v in dc.vmFolder.childEntity if v.name == "two"]
    WaitForTask(two.PowerOnVM_Task())
    Disconnect(si)
