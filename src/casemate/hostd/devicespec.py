"""From the device changes of a spec to the disks, drives, cards and ports of a VM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from casemate.calls.files import DeleteFile, SearchFiles
from casemate.formats import datastorepath
from casemate.hostd import peripheralspec, serialspec
from casemate.hostd.objects.devices import (
    FIRST_NIC_KEY,
    controller_of,
    controller_types,
    devices,
    disk_key,
    nic_models,
)
from casemate.hostd.selection import text
from casemate.hostd.vmchange import CONFIG, Change, number, unsupported
from casemate.machine.diskmodes import PERSISTENT, known_mode, mode_refusal
from casemate.machine.facts import DiskSpec, DriveSpec, NicSpec, VmConfig
from casemate.machine.networks import DEFAULT_GROUP
from casemate.machine.vmconfig import DISK_SHARES, IOPS, SHARES_LIMIT
from casemate.vim25 import faults
from casemate.vim25.values import MoRef, Obj

SCSI_SELF = 7
"""The unit of a SCSI controller itself: no disk sits there."""

_DISC = (SearchFiles.privilege,)
"""Privileges on the datastore of an image outside of the VM's directory."""
_DISK = (SearchFiles.privilege, DeleteFile.privilege)
"""... of a disk, which its guest writes."""
_NEW = ("Datastore.AllocateSpace", DeleteFile.privilege)
"""... of a disk that is made."""

_FILE_BACKINGS = frozenset(
    {
        *("VirtualDiskFlatVer1BackingInfo", "VirtualDiskFlatVer2BackingInfo"),
        *("VirtualDeviceFileBackingInfo", "VirtualDiskSparseVer2BackingInfo"),
        "VirtualDiskSeSparseBackingInfo",
    }
)

Taker = Callable[[str, Obj, VmConfig], VmConfig]
"""Returns the configuration as an operation on a device changes it. Raises FaultError."""

_TAKERS: Mapping[str, Taker] = {
    serialspec.TYPE: serialspec.taken,
    peripheralspec.VIDEO: peripheralspec.video,
    **dict.fromkeys(peripheralspec.USB_TYPES, peripheralspec.usb),
}


class Devices:
    """Applies device changes to the disks and cards of a configuration."""

    def __init__(self, change: Change, networks: frozenset[str]) -> None:
        self._change = change
        self._networks = networks
        self._disks = list(change.config.disks)
        self._drives = list(change.config.drives)
        self._nics: list[NicSpec | None] = list(change.config.nics)
        self._controllers: dict[int, str] = {}

    def apply(self, changes: tuple[Obj, ...]) -> None:
        """Apply all, controllers first: disks name them by key. Raises FaultError."""
        pairs = [(text(c.get("operation")), text(c.get("fileOperation")), c) for c in changes]
        for operation, _, item in pairs:
            device = _device(item)
            if device.type in controller_types():
                self._controller(operation, device)
        for operation, files, item in pairs:
            device = _device(item)
            if device.type in controller_types():
                continue
            if device.type == serialspec.CONTROLLER:
                # Every VM has one.
                continue
            if device.type in _TAKERS:
                self._taken(_TAKERS[device.type], operation, device)
            elif device.type == "VirtualDisk":
                self._disk(operation, files, device)
            elif device.type == "VirtualCdrom":
                self._cdrom(operation, device)
            elif device.type in nic_models():
                self._nic(operation, device)
            else:
                self._check_fixed(operation, device)
        self._change.config = replace(
            self._change.config,
            disks=tuple(self._disks),
            drives=tuple(self._drives),
            nics=tuple(nic for nic in self._nics if nic is not None),
        )

    def _check_fixed(self, operation: str, device: Obj) -> None:
        """Raise FaultError unless a device that every VM has is sent back as it was read."""
        shown = devices(self._change.config, "", None)
        same = next((one for one in shown if one.get("key") == device.get("key")), None)
        moot = {"deviceInfo", "connectable", "unitNumber"}
        given = [one for one in device.fields.items() if one[0] not in moot]
        if not (
            operation == "edit"
            and same is not None
            and all(value == same.get(name) or value is False for name, value in given)
        ):
            raise unsupported(f"This host does not offer {device.type} for a VM, or this of it.")

    def _right(self, name: str) -> None:
        self._change.privileges.add(CONFIG + name)

    def _controller(self, operation: str, device: Obj) -> None:
        if operation == "add":
            self._add_controller(device)
        elif operation == "remove":
            self._remove_controller(device)

    def _add_controller(self, device: Obj) -> None:
        bus = controller_types()[device.type]
        place = number(device.get("busNumber"), 0)
        self._controllers[number(device.get("key"), 0)] = f"{bus}{place}"
        self._right("AddRemoveDevice")

    def _remove_controller(self, device: Obj) -> None:
        name = controller_of(number(device.get("key"), 0))
        if name is None:
            raise faults.invalid_argument("config.deviceChange.device.key", "No such controller.")
        if name.startswith("ide"):
            raise unsupported("Every VM has its two IDE controllers.")
        self._right("AddRemoveDevice")
        if name.startswith("scsi"):
            self._change.unplug.append(name)

    def _slot(self, device: Obj) -> tuple[str, int]:
        key = number(device.get("controllerKey"), 0)
        controller = self._controllers.get(key) or controller_of(key) or "scsi0"
        taken = {one.unit for one in self._held() if one.controller == controller}
        if controller.startswith("scsi"):
            taken.add(SCSI_SELF)
        wanted = number(device.get("unitNumber"), -1)
        if wanted < 0:
            wanted = next(unit for unit in range(len(taken) + 1) if unit not in taken)
        if wanted in taken:
            raise faults.invalid_argument(
                "config.deviceChange.device.unitNumber", f"Unit {wanted} is taken."
            )
        return controller, wanted

    def _known(self, device: Obj) -> int:
        key = number(device.get("key"), 0)
        for place, disk in enumerate(self._disks):
            if disk_key(disk) == key:
                return place
        raise faults.invalid_argument("config.deviceChange.device.key", f"No device has key {key}.")

    def _disk(self, operation: str, files: str, device: Obj) -> None:
        if operation != "remove":
            _check_backing(device)
        asked = "" if operation == "remove" else _mode(device)
        if operation == "add":
            controller, unit = self._slot(device)
            backing = device.get("backing")
            path = text(backing.get("fileName")) if isinstance(backing, Obj) else ""
            thin = backing.get("thinProvisioned") if isinstance(backing, Obj) else None
            name = "" if files == "create" else self._file(path, _DISK)
            if files not in {"", "create"} or not (name or files == "create"):
                raise unsupported("A disk is created, or there is a file of it.")
            self._right("AddNewDisk" if files == "create" else "AddExistingDisk")
            kind = name.rpartition(".")[2] if name else "vmdk"
            form = {"qcow2": "qcow2", "img": "raw"}.get(kind, "vmdk")
            wanted = self._new_disk(path) if files == "create" else ""
            made = DiskSpec(name, "disk", form, _capacity(device), controller, unit)
            made = replace(made, mode=asked or PERSISTENT, thin=thin is not False, wanted=wanted)
            self._disks.append(self._limited(made, device))
            return
        place = self._known(device)
        disk = self._disks[place]
        if operation == "remove":
            self._right("RemoveDisk")
            del self._disks[place]
            if files == "destroy":
                self._change.destroy.append(disk.file_name)
                if found := datastorepath.in_volume(disk.file_name):
                    self._elsewhere(found[0], _DISK)
            return
        capacity = _capacity(device, disk.capacity)
        if capacity < disk.capacity:
            raise faults.invalid_argument(
                "config.deviceChange.device.capacityInKB", "A disk cannot shrink."
            )
        if capacity > disk.capacity:
            self._right("DiskExtend")
        mode = asked or disk.mode
        if mode != disk.mode:
            self._right("EditDevice")
        self._disks[place] = self._limited(replace(disk, capacity=capacity, mode=mode), device)

    def _limited(self, disk: DiskSpec, device: Obj) -> DiskSpec:
        """Return the disk with the shares and the limit of requests that its device asks for."""
        wanted = device.get("storageIOAllocation")
        if not isinstance(wanted, Obj):
            return disk
        if number(wanted.get("reservation"), 0) > 0:
            raise unsupported("Disks of this host have limits and shares, but no reservations.")
        shares = _shares(wanted.get("shares"), disk.shares)
        if shares != disk.shares:
            self._right("Resource")
            disk = replace(disk, shares=shares)
        limit = number(wanted.get("limit"), disk.iops)
        if limit != -1 and not IOPS[0] <= limit <= IOPS[1]:
            raise faults.invalid_argument(
                "config.deviceChange.device.storageIOAllocation.limit",
                f"A limit is -1, or {IOPS[0]} to {IOPS[1]} requests a second.",
            )
        if limit == disk.iops:
            # A client that sends back what it read says nothing of a limit in bytes.
            return disk
        self._right("Resource")
        return replace(disk, iops=limit, bps=-1)

    def _cdrom(self, operation: str, device: Obj) -> None:
        image = self._file(path, _DISC) if (path := _disc(device)) else ""
        if operation == "add":
            controller, unit = self._slot(device)
            self._right("AddRemoveDevice")
            self._put(image, controller, unit)
            return
        key = number(device.get("key"), 0)
        held = next((one for one in self._held() if disk_key(one) == key), None)
        if held is None or (isinstance(held, DiskSpec) and held.kind != "cdrom"):
            raise faults.invalid_argument(
                "config.deviceChange.device.key", f"No CD drive has key {key}."
            )
        if isinstance(held, DiskSpec):
            self._disks.remove(held)
        else:
            self._drives.remove(held)
        if operation == "remove":
            self._right("AddRemoveDevice")
            return
        self._change.privileges.add("VirtualMachine.Interact.SetCDMedia")
        self._put(image, held.controller, held.unit)

    def _taken(self, take: Taker, operation: str, device: Obj) -> None:
        before = self._change.config
        self._change.config = take(operation, device, before)
        if operation != "edit":
            self._right("AddRemoveDevice")
        elif self._change.config != before:
            self._right("EditDevice")

    def _held(self) -> tuple[DiskSpec | DriveSpec, ...]:
        return (*self._disks, *self._drives)

    def _put(self, image: str, controller: str, unit: int) -> None:
        """Put a drive into a slot, with a disc in it or without."""
        if image:
            self._disks.append(DiskSpec(image, "cdrom", "raw", 0, controller, unit))
        else:
            self._drives.append(DriveSpec(controller, unit))

    def _new_disk(self, path: str) -> str:
        """Return the name that a new disk is to have; the host chooses where it is none."""
        if not path.startswith("["):
            return path if path.endswith(".vmdk") else ""
        config = self._change.config
        datastore, below = datastorepath.parse(path)
        own, _, place = config.vmx_path.removeprefix("[").partition("]")
        if not below.endswith(".vmdk"):
            if datastore == own:
                return ""
            self._elsewhere(datastore, _NEW)
            return f"[{datastore}]"
        folder, _, name = below.rpartition("/")
        place = place.strip(" /")
        if place.endswith(".vmx"):
            place = place.rpartition("/")[0]
        if datastore == own and folder in {place, place or config.name}:
            return name
        self._elsewhere(datastore, _NEW)
        return datastorepath.volume_file(datastore, below)

    def _file(self, path: str, privileges: tuple[str, ...]) -> str:
        """Return the name of a disk or an image that is there: of a datastore in full."""
        if not path.startswith("["):
            return path
        datastore, below = datastorepath.parse(path)
        name = datastorepath.volume_file(datastore, below)
        name = datastorepath.local(name, self._change.config.vmx_path)
        if "/" in name:
            self._elsewhere(datastore, privileges)
        return name

    def _elsewhere(self, datastore: str, privileges: tuple[str, ...]) -> None:
        """Note what a file outside of the VM's directory takes."""
        self._change.elsewhere |= {(datastore, one) for one in privileges}

    def _nic(self, operation: str, device: Obj) -> None:
        if operation == "add":
            self._right("AddRemoveDevice")
            mac, manual = _address(device, NicSpec("", "", ""))
            network = self._network(device) or DEFAULT_GROUP
            connected = _connected(device, before=True)
            self._nics.append(NicSpec(mac, network, _model(device), manual, connected))
            return
        place = number(device.get("key"), 0) - FIRST_NIC_KEY
        present = self._nics[place] if 0 <= place < len(self._nics) else None
        if present is None:
            raise faults.invalid_argument("config.deviceChange.device.key", "No such card.")
        if operation == "remove":
            self._right("AddRemoveDevice")
            self._nics[place] = None
            return
        self._right("EditDevice")
        network = self._network(device) or present.network
        mac, manual = _address(device, present)
        connected = _connected(device, before=present.connected)
        self._nics[place] = NicSpec(mac, network, _model(device), manual, connected)

    def _network(self, device: Obj) -> str:
        backing = device.get("backing")
        if not isinstance(backing, Obj):
            return ""
        if backing.type != "VirtualEthernetCardNetworkBackingInfo":
            raise unsupported("A network card is on a network of this host.")
        ref = backing.get("network")
        name = text(backing.get("deviceName"))
        if not name and isinstance(ref, MoRef):
            name = ref.value.removeprefix("HaNetwork-")
        if name not in self._networks:
            raise faults.invalid_argument(
                "config.deviceChange.device.backing", f"There is no network {name:.80}."
            )
        return name


def _device(change: Obj) -> Obj:
    device = change.get("device")
    if not isinstance(device, Obj):
        raise faults.invalid_argument("config.deviceChange.device", "A change names a device.")
    return device


def _disc(device: Obj) -> str:
    """Return the path of the image in a CD drive; nothing where it is, or starts, without."""
    backing, state = device.get("backing"), device.get("connectable")
    if isinstance(state, Obj):
        start, connected = state.get("startConnected"), state.get("connected")
        if start is False or (connected is False and start is not True):
            return ""
    if isinstance(backing, Obj) and backing.type == "VirtualCdromIsoBackingInfo":
        return text(backing.get("fileName"))
    return ""


def _check_backing(device: Obj) -> None:
    """Raise FaultError for a disk that is no file: a device of the host, a disk of another kind."""
    backing = device.get("backing")
    if isinstance(backing, Obj) and backing.type not in _FILE_BACKINGS:
        raise unsupported("Disks of this host are files: FlatVer2, on a datastore.")


def _shares(info: object, before: int) -> int:
    """Return the shares that are asked for; their number counts only where they are custom."""
    if not isinstance(info, Obj):
        return before
    level = text(info.get("level"))
    if level in DISK_SHARES:
        return DISK_SHARES[level]
    wanted = number(info.get("shares"), before)
    if level != "custom" or not 1 <= wanted <= SHARES_LIMIT:
        raise faults.invalid_argument(
            "config.deviceChange.device.storageIOAllocation.shares",
            f"Shares are low, normal, high, or 1 to {SHARES_LIMIT}.",
        )
    return wanted


def _mode(device: Obj) -> str:
    """Return the mode that a disk's device asks for, or nothing. Raises FaultError."""
    backing = device.get("backing")
    mode = text(backing.get("diskMode")) if isinstance(backing, Obj) else ""
    if not mode or (known := known_mode(mode)):
        return mode and known
    why, remedy = mode_refusal(mode)
    raise unsupported(f"{why[0].upper()}{why[1:]}. {remedy}")


def _capacity(device: Obj, before: int = 0) -> int:
    """Return the bytes asked for. Clients change one of two fields and send the other as read."""
    exact = number(device.get("capacityInBytes"), 0)
    rounded = number(device.get("capacityInKB"), 0)
    if rounded and (not exact or (exact == before and rounded != before // 1024)):
        return rounded * 1024
    return exact or before


def _address(device: Obj, before: NicSpec) -> tuple[str, bool]:
    """Return a card's address, empty where it is to be generated, and whether it was chosen."""
    kind, mac = text(device.get("addressType")).lower(), text(device.get("macAddress")).lower()
    if kind == "generated":
        return ("", False) if before.manual else (before.mac, False)
    if not mac or mac == before.mac:
        return before.mac, before.manual
    return mac, True


def _connected(device: Obj, *, before: bool) -> bool:
    """Tell whether a card is connected: what changed of what a client sends back decides."""
    info = device.get("connectable")
    if not isinstance(info, Obj):
        return before
    given = [info.get(name) for name in ("startConnected", "connected")]
    changed = [value for value in given if isinstance(value, bool) and value != before]
    return (not before) if changed else before


def _model(device: Obj) -> str:
    return nic_models()[device.type]
