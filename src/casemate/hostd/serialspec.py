"""VirtualSerialPort: what a spec says of a VM's serial ports."""

from __future__ import annotations

from dataclasses import replace

from casemate.errors import ArgumentError
from casemate.hostd.objects.devices import FIRST_SERIAL_KEY
from casemate.hostd.selection import text
from casemate.machine import serialports
from casemate.machine.facts import SerialSpec, VmConfig
from casemate.vim25 import faults
from casemate.vim25.faults import FaultError
from casemate.vim25.values import Obj

TYPE = "VirtualSerialPort"
CONTROLLER = "VirtualSIOController"
_DEVICE = "config.deviceChange.device."
_UNSAFE = (
    "A serial port writes to a file of the VM's directory, or is a pipe that is opened with a "
    "ticket: it gets no device of the host, and no port of the network that knows no password."
)


def taken(operation: str, device: Obj, config: VmConfig) -> VmConfig:
    """Return the configuration with a serial port added, changed or removed. Raises FaultError."""
    if operation == "add":
        used = {port.number for port in config.serials}
        free = [number for number in range(serialports.PORTS) if number not in used]
        wanted = device.get("unitNumber")
        number = wanted if isinstance(wanted, int) and wanted in free else next(iter(free), -1)
        if number < 0:
            raise FaultError(
                Obj("TooManyDevices", property=_DEVICE + "key"),
                f"A VM has at most {serialports.PORTS} serial ports.",
            )
        present = SerialSpec(number, serialports.NONE)
    else:
        key = device.get("key")
        found = [port for port in config.serials if FIRST_SERIAL_KEY + port.number == key]
        if not found:
            raise faults.invalid_argument(_DEVICE + "key", f"No serial port has key {key}.")
        (present,) = found
    others = tuple(port for port in config.serials if port.number != present.number)
    if operation == "remove":
        extra = serialports.without(config.extra, present.number)
        return replace(config, serials=others, extra=extra)
    made = _port(device, config, present)
    if made == present and operation != "add":
        return config
    extra = config.extra
    if made.kind != present.kind:
        extra = serialports.without(extra, present.number)
    ports = tuple(sorted((*others, made), key=lambda port: port.number))
    return replace(config, serials=ports, extra=extra)


def _port(device: Obj, config: VmConfig, present: SerialSpec) -> SerialSpec:
    """Return a port as its device says; without a backing it stays with the one that it has."""
    backing, state = device.get("backing"), device.get("connectable")
    connected = present.connected
    if isinstance(state, Obj) and isinstance(start := state.get("startConnected"), bool):
        connected = start
    kind, target = present.kind, present.target
    if isinstance(backing, Obj):
        match backing.type:
            case "VirtualSerialPortFileBackingInfo":
                kind, target = serialports.FILE, _own_file(text(backing.get("fileName")), config)
            case "VirtualSerialPortPipeBackingInfo":
                if text(backing.get("endpoint")).lower() not in {"", "server"}:
                    raise FaultError(
                        Obj("NotSupported"), "The guest's end of a pipe is its server."
                    )
                kind, target = serialports.PIPE, text(backing.get("pipeName"))
            case "VirtualSerialPortDeviceBackingInfo" if not _names_device(backing):
                return SerialSpec(present.number, serialports.NONE)
            case _:
                raise FaultError(Obj("NotSupported"), _UNSAFE)
    if kind == serialports.NONE:
        return SerialSpec(present.number, kind)
    try:
        serialports.check(kind, target, _DEVICE + "backing")
    except ArgumentError as error:
        raise faults.invalid_argument(_DEVICE + "backing", f"{error.reason}.") from error
    return SerialSpec(present.number, kind, target, connected)


def _names_device(backing: Obj) -> bool:
    return bool(text(backing.get("deviceName"))) and backing.get("useAutoDetect") is not True


def _own_file(path: str, config: VmConfig) -> str:
    """Return the name of a file in the VM's directory. Raises FaultError."""
    if not path.startswith("["):
        return path
    folder, _, name = path.rpartition("/")
    own = config.vmx_path.rpartition("/")[0]
    # A VM that is being made has its datastore alone, and so has a path that a client begins with.
    if own and folder.replace("] ", "]") != own.replace("] ", "]"):
        raise FaultError(Obj("NotSupported"), "A serial port writes to the VM's own directory.")
    return name or path.partition("]")[2].strip()
