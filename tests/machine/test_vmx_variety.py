"""vmx files as Workstation, Fusion and ESXi write them register, or are refused by name."""

from __future__ import annotations

import pytest

from casemate.errors import ArgumentError, FormatError
from casemate.formats import vmx
from casemate.machine.facts import DiskSpec, DriveSpec, NicSpec, VmConfig
from casemate.machine.vmconfig import vm_config

PATH = "[datastore1] vm/vm.vmx"
WORKSTATION = b"""\
#!/usr/bin/vmware
.encoding = "windows-1252"
config.version = "8"
virtualHW.version = "16"
pciBridge0.present = "TRUE"
pciBridge4.virtualDev = "pcieRootPort"
pciBridge4.functions = "8"
vmci0.present = "TRUE"
hpet0.present = "TRUE"
displayName = "B\xfcro |22alt|22"
guestOS = "windows9-64"
nvram = "vm.nvram"
virtualHW.productCompatibility = "hosted"
powerType.powerOff = "soft"
tools.syncTime = "FALSE"
sound.autoDetect = "TRUE"
sound.fileName = "-1"
sound.present = "TRUE"
numvcpus = "2"
cpuid.coresPerSocket = "2"
vcpu.hotadd = "TRUE"
memsize = "2048"
mem.hotadd = "TRUE"
scsi0.virtualDev = "lsisas1068"
scsi0.present = "TRUE"
sata0.present = "TRUE"
scsi0:0.fileName = "Windows 10 x64.vmdk"
scsi0:0.present = "TRUE"
sata0:1.deviceType = "cdrom-raw"
sata0:1.fileName = "auto detect"
sata0:1.autodetect = "TRUE"
sata0:1.present = "TRUE"
usb.present = "TRUE"
usb_xhci:4.present = "TRUE"
ethernet0.connectionType = "nat"
ethernet0.addressType = "generated"
ethernet0.virtualDev = "e1000e"
ethernet0.present = "TRUE"
ethernet0.generatedAddress = "00:0C:29:6F:12:AB"
ethernet0.generatedAddressOffset = "0"
extendedConfigFile = "vm.vmxf"
floppy0.fileType = "device"
floppy0.fileName = "A:"
floppy0.startConnected = "FALSE"
serial0.fileType = "thinprint"
serial0.fileName = "thinprint"
serial0.present = "TRUE"
uuid.bios = "56 4d 3f 5a 9c 11 22 33-44 55 66 77 88 99 aa bb"
uuid.location = "56 4d 3f 5a 9c 11 22 33-44 55 66 77 88 99 aa bb"
scsi0:0.redo = ""
vmotion.checkpointFBSize = "134217728"
checkpoint.vmState = ""
sharedFolder0.hostPath = "C:\\Users\\me"
gui.exitOnCLIHLT = "FALSE"
"""
ESXI = b"""\
.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "19"
vmci0.present = "TRUE"
floppy0.present = "FALSE"
numvcpus = "4"
memSize = "4096"
sched.cpu.units = "mhz"
sched.cpu.affinity = "all"
sched.cpu.latencySensitivity = "normal"
sched.cpu.min = "0"
sched.cpu.shares = "normal"
sched.mem.min = "0"
sched.mem.minSize = "0"
sched.mem.shares = "normal"
firmware = "efi"
uefi.secureBoot.enabled = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0.present = "TRUE"
sata0.present = "TRUE"
nvme0.present = "TRUE"
scsi0:0.deviceType = "scsi-hardDisk"
scsi0:0.fileName = "vm.vmdk"
sched.scsi0:0.shares = "normal"
sched.scsi0:0.throughputCap = "off"
scsi0:0.present = "TRUE"
scsi0:0.ctkEnabled = "TRUE"
nvme0:0.fileName = "vm_1.vmdk"
nvme0:0.present = "TRUE"
nvme0:0.mode = "independent-persistent"
sata0:0.deviceType = "atapi-cdrom"
sata0:0.fileName = "emptyBackingString"
sata0:0.clientDevice = "TRUE"
sata0:0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "vpx"
ethernet0.generatedAddress = "00:50:56:a1:02:03"
ethernet0.uptCompatibility = "TRUE"
ethernet0.present = "TRUE"
displayName = "\xe6\x9d\xb1\xe4\xba\xac"
guestOS = "other5xlinux-64"
toolScripts.afterPowerOn = "TRUE"
tools.upgrade.policy = "manual"
uuid.bios = "42 21 00 01 02 03 04 05-06 07 08 09 0a 0b 0c 0d"
vc.uuid = "50 21 00 01 02 03 04 05-06 07 08 09 0a 0b 0c 0d"
migrate.hostLog = "vm-1a2b3c4d.hlog"
sched.swap.derivedName = "/vmfs/volumes/5f0c/vm/vm-1a2b.vswp"
featMask.vm.hv.capable = "Min:1"
monitor.phys_bits_used = "45"
svga.vramSize = "16777216"
guestinfo.appInfo = "{|0A  |22version|22: 1|0A}"
"""
OLD = b"""\
config.version = "6"
virtualHW.version = "4"
scsi0.present = "TRUE"
scsi0.virtualDev = "lsilogic"
memsize = "256"
ide0:0.present = "TRUE"
ide0:0.fileName = "Old Linux.vmdk"
ide0:0.mode = "nonpersistent"
ide1:0.present = "TRUE"
ide1:0.fileName = "/dev/cdrom"
ide1:0.deviceType = "atapi-cdrom"
floppy0.fileName = "/dev/fd0"
ethernet0.present = "TRUE"
ethernet0.connectionType = "bridged"
displayName = "Old Linux"
guestOS = "otherlinux"
ide0:0.redo = ""
"""


def read(*lines: bytes, base: bytes = b"", end: bytes = b"\n") -> VmConfig:
    whole = base + b"\n".join(lines) + b"\n"
    return vm_config(vmx.parse(whole.replace(b"\n", end)), PATH)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_file_of_workstation(end):
    vm = read(base=WORKSTATION, end=end)
    assert (vm.name, vm.cpus, vm.memory_mib) == ('Büro "alt"', 2, 2048)
    assert vm.disks == (DiskSpec("Windows 10 x64.vmdk", "disk", "vmdk", 0, "scsi0", 0),)
    assert vm.drives == (DriveSpec("sata0", 1),)
    assert vm.nics == (NicSpec("00:0c:29:6f:12:ab", "nat", "e1000e"),)
    assert dict(vm.extra)["sharedFolder0.hostPath"] == "C:\\Users\\me"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_file_of_esxi(end):
    vm = read(base=ESXI, end=end)
    assert (vm.name, vm.cpus, vm.firmware) == ("東京", 4, "efi")
    assert [(one.file_name, one.controller) for one in vm.disks] == [
        ("vm.vmdk", "scsi0"),
        ("vm_1.vmdk", "nvme0"),
    ]
    assert vm.disks[1].mode == "independent_persistent"
    assert vm.drives == (DriveSpec("sata0", 0),)
    assert dict(vm.extra)["guestinfo.appInfo"] == '{\n  "version": 1\n}'


def test_a_file_of_twenty_years_ago():
    vm = read(base=OLD)
    assert vm.disks[0].mode == "independent_nonpersistent"
    assert vm.drives == (DriveSpec("ide1", 0),)
    assert vm.nics[0].network == "bridged"


@pytest.mark.parametrize("version", [4, 7, 8, 10, 13, 14, 19, 21])
def test_every_version_of_virtual_hardware_is_kept(version):
    vm = read(b'virtualHW.version = "%d"' % version)
    assert dict(vm.extra)["virtualHW.version"] == str(version)


@pytest.mark.parametrize(
    ("encoding", "data", "name"),
    [
        ("UTF-8", "Größe".encode(), "Größe"),
        ("windows-1250", b"\xe8e\x9atina", "čeština"),
        ("windows-1251", b"\xcc\xe0\xf8\xe8\xed\xe0", "Машина"),
        ("ISO-8859-15", b"\xa4uro", "€uro"),
        ("EUC-JP", b"\xc5\xec\xb5\xfe", "東京"),
        ("EUC-KR", b"\xbc\xad\xbf\xef", "서울"),
        ("GB2312", b"\xb1\xb1\xbe\xa9", "北京"),
    ],
)
def test_the_name_is_read_in_the_character_set_of_its_file(encoding, data, name):
    vm = read(b'.encoding = "' + encoding.encode() + b'"', b'displayName = "' + data + b'"')
    assert vm.name == name


@pytest.mark.parametrize("encoding", ["Shift_JIS", "GBK", "Big5", "UTF-16", "idna", "rot13", ""])
def test_a_character_set_that_hides_quotes_or_is_none_is_refused(encoding):
    with pytest.raises(FormatError) as caught:
        read(f'.encoding = "{encoding}"'.encode())
    assert caught.value.code == "vmx-encoding"
    assert "UTF-8" in caught.value.remedy


@pytest.mark.parametrize("mode", ["undoable", "append", "independent-append", "eager"])
def test_a_mode_that_disks_do_not_have_is_refused_with_what_does_instead(mode):
    with pytest.raises(ArgumentError) as caught:
        read(
            b'ide0:0.present = "TRUE"',
            b'ide0:0.fileName = "a.vmdk"',
            f'ide0:0.mode = "{mode}"'.encode(),
        )
    assert caught.value.argument == "ide0:0.mode"
    assert "persistent" in caught.value.remedy


@pytest.mark.parametrize(
    ("line", "argument"),
    [
        (b'ethernet0.virtualDev = "vlance"', "ethernet0.virtualdev"),
        (b'ethernet0.virtualDev = "vmxnet"', "ethernet0.virtualdev"),
        (b'scsi0.virtualDev = "buslogic"', "scsi0.virtualdev"),
        (b'ide1:0.deviceType = "cdrom-image"', "ide1:0.filename"),
        (b'scsi0:0.deviceType = "rawDisk"', "scsi0:0.devicetype"),
        (b'serial0.fileType = "file"', "serial0.fileName"),
    ],
)
def test_a_device_that_there_is_not_is_refused_by_its_entry(line, argument):
    present = (b"ethernet0", b"scsi0", b"scsi0:0", b"ide1:0", b"serial0")
    lines = [b"%s.present = TRUE" % slot for slot in present if line.startswith(slot + b".")]
    if line.startswith(b"scsi0:0"):
        lines += [b"scsi0.present = TRUE", b'scsi0:0.fileName = "disk.vmdk"']
    if line.startswith(b"ide1:0"):
        lines.append(b'ide1:0.fileName = "C:\\tools\\linux.iso"')
    if line.startswith(b"serial0"):
        lines.append(b'serial0.fileName = "/tmp/serial.txt"')
    with pytest.raises(ArgumentError) as caught:
        read(*lines, line)
    assert caught.value.argument == argument


def test_an_encrypted_configuration_is_no_empty_machine():
    with pytest.raises(ArgumentError) as caught:
        read(
            b'displayName = "secret"',
            b'encryption.keySafe = "vmware:key/list/(pair/(phrase/x,pass2key))"',
            b'encryption.data = "AAAA"',
        )
    assert caught.value.argument == "encryption.data"
    assert "Decrypt" in caught.value.remedy


def test_a_mask_of_cpu_features_as_workstation_writes_it():
    assert read(b'cpuid.1.ecx = "---- ---- ---- ---- ---- ---- --H- ----"').cpus == 1


def test_a_second_definition_is_refused_with_its_line():
    with pytest.raises(FormatError) as caught:
        read(b'memsize = "512"', b'MemSize = "1024"')
    assert caught.value.code == "vmx-duplicate"
    assert "line 2" in caught.value.reason
