"""esxcli hardware: the machine, its processors, memory, PCI devices, TPM and trusted boot."""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Generator
from typing import TypeVar

from casemate.calls.esxcli.answer import Answer, Row
from casemate.calls.esxcli.tree import Group, Run, ask, command, namespace
from casemate.calls.messages import Identity, IdentityReply, Snapshot, SnapshotReply
from casemate.errors import CasemateError, NotFoundError
from casemate.machine.facts import HostFact
from casemate.machine.hardware import HardwareFact

F = TypeVar("F")


def register(namespaces: Group[argparse.ArgumentParser]) -> None:
    """Add the namespace."""
    top = namespace(namespaces, "hardware", "the machine")
    cpu = namespace(top, "cpu", "processors")
    command(cpu, "list", "List the processors.", _cpus)
    totals = namespace(cpu, "global", "all processors together")
    command(totals, "get", "Count processors.", _cpu)
    clock = namespace(top, "clock", "the clock")
    command(clock, "get", "Show the time, in UTC.", clock_time)
    memory = namespace(top, "memory", "memory")
    command(memory, "get", "Show the size of the memory.", _memory)
    platform = namespace(top, "platform", "the machine as its maker names it")
    command(platform, "get", "Show maker, model and identity of the machine.", _platform)
    pci = namespace(top, "pci", "PCI devices")
    command(pci, "list", "List the PCI devices.", _pci)
    tpm = namespace(top, "tpm", "the TPM")
    command(tpm, "get", "Show the TPM.", _tpm)
    trusted = namespace(top, "trustedboot", "trusted boot")
    command(trusted, "get", "Show whether the boot was trusted.", _trusted)


def facts_of(kind: type[F]) -> Generator[object, object, tuple[F, ...]]:
    """Return all facts of a kind."""
    reply = yield from ask(Snapshot(), SnapshotReply)
    return tuple(fact for fact in reply.facts if isinstance(fact, kind))


def host_fact() -> Generator[object, object, HostFact]:
    """Return what the kernel says of the host. Raises NotFoundError."""
    found = next(iter((yield from facts_of(HostFact))), None)
    if found is None:
        raise NotFoundError("The kernel says nothing of the host yet.", component="host")
    return found


def clock_time(options: argparse.Namespace) -> Run:
    """Answer what time it is, as ESXi writes it."""
    yield from ()
    now = dt.datetime.fromtimestamp(options.now, dt.UTC)
    return Answer((), "text", text=f"{now:%Y-%m-%dT%H:%M:%SZ}")


def _cpus(_options: argparse.Namespace) -> Run:
    host = yield from host_fact()
    rows: list[Row] = [
        {
            "Id": number,
            "Package Id": number * host.cpu_packages // max(host.cpu_threads, 1),
            "Brand": host.cpu_model,
            "Vendor": host.cpu_vendor,
            "Core Speed": host.cpu_mhz * 1_000_000,
        }
        for number in range(host.cpu_threads)
    ]
    return Answer(rows, headers=[f"CPU:{row['Id']}" for row in rows], structure="CPU")


def _cpu(_options: argparse.Namespace) -> Run:
    host = yield from host_fact()
    row: Row = {
        "CPU Packages": host.cpu_packages,
        "CPU Cores": host.cpu_cores,
        "CPU Threads": host.cpu_threads,
        "Hyperthreading Active": host.cpu_threads > host.cpu_cores,
        "Hyperthreading Supported": host.cpu_threads > host.cpu_cores,
        "Hyperthreading Enabled": host.cpu_threads > host.cpu_cores,
    }
    return Answer([row], structure="CPUGlobalInfo")


def _memory(_options: argparse.Namespace) -> Run:
    host = yield from host_fact()
    row: Row = {
        "Physical Memory": f"{host.memory_size} Bytes",
        "Reliable Memory": "0 Bytes",
        "NUMA Node Count": host.numa_nodes,
    }
    return Answer([row], structure="MemoryInfo")


def _platform(_options: argparse.Namespace) -> Run:
    host = yield from host_fact()
    found = next(iter((yield from facts_of(HardwareFact))), None)
    row: Row = {
        "UUID": host.uuid,
        "Product Name": found.system_model if found else "",
        "Vendor Name": found.system_vendor if found else "",
        "BIOS Version": found.bios_version if found else "",
        "IPMI Supported": False,
    }
    return Answer([row], structure="PlatformInfo", headers=["Platform Information"])


def _pci(_options: argparse.Namespace) -> Run:
    found = yield from facts_of(HardwareFact)
    rows: list[Row] = [
        {
            "Address": device.address,
            "Module Name": device.driver or "None",
            "Vendor ID": f"0x{device.vendor:04x}",
            "Device ID": f"0x{device.device:04x}",
            "SubVendor ID": f"0x{device.subsystem_vendor:04x}",
            "SubDevice ID": f"0x{device.subsystem_device:04x}",
            "Device Class": f"0x{device.device_class >> 8:04x}",
            "NUMA Node": device.numa_node,
        }
        for device in (found[0].pci if found else ())
    ]
    return Answer(rows, structure="PCIDevice", headers=[str(row["Address"]) for row in rows])


def _tpm(_options: argparse.Namespace) -> Run:
    host = yield from host_fact()
    try:
        identity = yield from ask(Identity(), IdentityReply)
        facts = (identity.manufacturer, identity.firmware_version, identity.kind)
    except CasemateError as error:
        facts = ("", "", error.reason)
    row: Row = {
        "Present": bool(host.tpm_version),
        "Version": host.tpm_version,
        "Manufacturer": facts[0],
        "Firmware Version": facts[1],
        "Kind": facts[2],
        "Drtm Type": host.drtm_type,
    }
    return Answer([row], structure="TpmInfo")


def _trusted(_options: argparse.Namespace) -> Run:
    host = yield from host_fact()
    row: Row = {"Drtm Enabled": host.drtm_type != "none", "Tpm Present": bool(host.tpm_version)}
    return Answer([row], structure="TrustedbootInfo")
