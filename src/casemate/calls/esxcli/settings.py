"""esxcli system settings, stats, account, hostname, uuid; storage filesystem."""

from __future__ import annotations

import argparse
from collections.abc import Generator

from casemate.calls.admin import SetOption
from casemate.calls.esxcli.answer import Answer, Row
from casemate.calls.esxcli.hardware import facts_of, host_fact
from casemate.calls.esxcli.tree import Group, Run, ask, command, namespace
from casemate.calls.messages import Empty
from casemate.errors import NotFoundError
from casemate.machine.facts import DatastoreFact
from casemate.machine.governance import AccountFact, OptionFact
from casemate.machine.hardware import HardwareFact
from casemate.policy.options import OPTIONS, Option


def register_system(
    top: Group[argparse.ArgumentParser], settings: Group[argparse.ArgumentParser]
) -> None:
    """Add to the namespace system, and to its settings."""
    advanced = namespace(settings, "advanced", "advanced options")
    listed = command(advanced, "list", "List the advanced options.", _advanced)
    listed.add_argument("-o", "--option", default="", help="only this one, as /Group/Name")
    listed.add_argument("-d", "--delta", action="store_true", help="only those that were changed")
    chosen = command(advanced, "set", "Set an advanced option.", _set_advanced)
    chosen.add_argument("-o", "--option", required=True, help="as /Group/Name")
    value = chosen.add_mutually_exclusive_group(required=True)
    value.add_argument("-i", "--int-value", type=int, help="a number")
    value.add_argument("-s", "--string-value", help="a text")
    value.add_argument("-d", "--default", action="store_true", help="what it is without setting it")
    uptime = namespace(namespace(top, "stats", "statistics"), "uptime", "time since the boot")
    command(uptime, "get", "Show the microseconds since the boot.", _uptime)
    account = namespace(top, "account", "local accounts")
    shown = ("User", ("User ID", "Description"))
    command(account, "list", "List the local accounts.", _accounts, table=shown)
    command(namespace(top, "hostname", "names"), "get", "Show the host's names.", _hostname)
    command(namespace(top, "uuid", "the host's UUID"), "get", "Show the host's UUID.", _uuid)


def register_storage(namespaces: Group[argparse.ArgumentParser]) -> None:
    """Add the namespace storage."""
    top = namespace(namespaces, "storage", "storage")
    files = namespace(top, "filesystem", "volumes")
    shown = (
        "FileSystemVolume",
        ("Mount Point", "Volume Name", "UUID", "Mounted", "Type", "Size", "Free"),
    )
    command(files, "list", "List the volumes of this host.", _filesystems, table=shown)
    device = namespace(namespace(top, "core", "devices"), "device", "disks of the machine")
    command(device, "list", "List the disks of the machine.", _devices)


def _advanced(options: argparse.Namespace) -> Run:
    set_to = {fact.name: fact.value for fact in (yield from facts_of(OptionFact))}
    shown = [
        (_path(one.name), one, set_to.get(one.name, one.default))
        for one in OPTIONS.values()
        if options.option in ("", _path(one.name), one.name)
    ]
    if not shown:
        raise _unknown(options.option)
    rows = [
        _option(path, one, value)
        for path, one, value in shown
        if not options.delta or value != one.default
    ]
    return Answer(rows, headers=["" for _ in rows], structure="Option")


def _path(name: str) -> str:
    return "/" + name.replace(".", "/")


def _option(path: str, one: Option, value: str) -> Row:
    number = int(value) if one.number and value.isdecimal() else 0
    return {
        "Path": path,
        "Type": "integer" if one.number else "string",
        "Int Value": number,
        "Default Int Value": int(one.default) if one.number else 0,
        "Min Value": one.low,
        "Max Value": one.high,
        "String Value": "" if one.number else value,
        "Default String Value": "" if one.number else one.default,
        "Valid Characters": "" if one.number else "*",
        "Description": one.label,
    }


def _uptime(options: argparse.Namespace) -> Run:
    host = yield from host_fact()
    micro = max(0, int((options.now - host.boot_time) * 1_000_000))
    return Answer((), "text", text=str(micro))


def _accounts(_options: argparse.Namespace) -> Run:
    found = yield from facts_of(AccountFact)
    rows: list[Row] = [{"User ID": one.name, "Description": one.full_name} for one in found]
    return Answer(rows, "table", structure="User", columns=("User ID", "Description"))


def _set_advanced(options: argparse.Namespace) -> Run:
    named = [o for o in OPTIONS.values() if options.option in (_path(o.name), o.name)]
    if not named:
        raise _unknown(options.option)
    given = options.int_value if options.int_value is not None else options.string_value
    value = named[0].default if options.default else str(given)
    yield from ask(SetOption("", named[0].name, value), Empty)
    return Answer((), "text")


def _unknown(option: str) -> NotFoundError:
    return NotFoundError(
        f"There is no option {option!r}.",
        component=option,
        remedy="List them: esxcli system settings advanced list.",
    )


def _hostname(_options: argparse.Namespace) -> Run:
    host = yield from host_fact()
    short, _, domain = host.name.partition(".")
    row: Row = {
        "Domain Name": domain,
        "Fully Qualified Domain Name": host.name,
        "Host Name": short,
    }
    return Answer([row], structure="FQDN")


def _uuid(_options: argparse.Namespace) -> Run:
    host = yield from host_fact()
    return Answer((), "text", text=host.uuid)


def _filesystems(_options: argparse.Namespace) -> Run:
    rows: list[Row] = [
        {
            "Mount Point": f"/vmfs/volumes/{one.datastore}",
            "Volume Name": one.name,
            "UUID": one.datastore,
            "Mounted": True,
            "Type": "OTHER",
            "Size": one.capacity,
            "Free": one.free,
        }
        for one in (yield from facts_of(DatastoreFact))
    ]
    return Answer(rows, "table", structure="FileSystemVolume")


def _disks() -> Generator[object, object, list[Row]]:
    return [
        {
            "Display Name": f"Local disk ({disk.name})",
            "Size": disk.capacity >> 20,
            "Device Type": "Direct-Access",
            "Vendor": disk.vendor,
            "Model": disk.model,
            "Is Local": True,
            "Is Removable": disk.removable,
            "Is SSD": not disk.rotational,
        }
        for machine in (yield from facts_of(HardwareFact))
        for disk in machine.disks
    ]


def _devices(_options: argparse.Namespace) -> Run:
    rows = yield from _disks()
    return Answer(rows, headers=[str(row["Display Name"]) for row in rows], structure="Device")
