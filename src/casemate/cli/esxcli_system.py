"""esxcli system: version, modules, boot options."""

from __future__ import annotations

import argparse

from casemate.calls.messages import Snapshot, SnapshotReply
from casemate.calls.software import InstalledVib, SoftwareList, SoftwareReply
from casemate.cli.calls import Calls
from casemate.cli.esxcli_hardware import host_fact
from casemate.cli.esxcli_output import Answer, Row
from casemate.cli.esxcli_tree import Group, command, namespace
from casemate.errors import NotFoundError, NotSupportedError
from casemate.machine.facts import ComponentFact

KERNEL_OPTIONS = (
    ("execInstalledOnly", "Bool", "Execute only what installed VIBs bring.", "TRUE"),
    ("apiCompatibility", "Bool", "Serve the API's methods of ring C.", "FALSE"),
    ("noSigCheck", "String", "VIBs that are used without a good signature.", ""),
)
"""Name, type, what it does, default."""

_GROUP = 4


def register(namespaces: Group[argparse.ArgumentParser]) -> None:
    """Add the namespace."""
    top = namespace(namespaces, "system", "the host as a system")
    command(namespace(top, "version", "version"), "get", "Show the version.", _version)
    module = namespace(top, "module", "modules of the running image")
    listed = command(module, "list", "List the modules.", _modules)
    listed.add_argument("-l", "--loaded", help=argparse.SUPPRESS)
    listed.add_argument("-e", "--enabled", help=argparse.SUPPRESS)
    got = command(module, "get", "Show a module and who signed it.", _module)
    got.add_argument("-m", "--module", required=True)
    for name in ("load", "set"):
        parser = command(module, name, f"{name.title()} a module.", _refuse)
        parser.add_argument("-m", "--module", required=True)
        parser.add_argument("-e", "--enabled", help=argparse.SUPPRESS)
        parser.add_argument("-f", "--force", action="store_true", help=argparse.SUPPRESS)
    kernel = namespace(namespace(top, "settings", "settings"), "kernel", "boot options")
    options = command(kernel, "list", "List the options of the kernel.", _options)
    options.add_argument("-o", "--option", default="", help="only this one")
    options.add_argument("-d", "--delta", action="store_true", help="only those that were changed")


def _version(calls: Calls, _options: argparse.Namespace) -> Answer:
    host = host_fact(calls)
    row: Row = {
        "Product": "Casemate",
        "Version": host.product_version,
        "Build": host.build,
        "Update": "0",
        "Patch": "0",
    }
    return Answer([row], structure="VersionGet")


def _modules(calls: Calls, _options: argparse.Namespace) -> Answer:
    rows: list[Row] = [
        {"Name": _stem(one), "Is Loaded": True, "Is Enabled": True} for one in _components(calls)
    ]
    return Answer(rows, "table", structure="Module")


def _module(calls: Calls, options: argparse.Namespace) -> Answer:
    found = next(
        (o for o in _components(calls) if options.module in (_stem(o), o.file_name, o.vib_name)),
        None,
    )
    if found is None:
        raise NotFoundError(
            f"There is no module {options.module!r}.",
            component=options.module,
            remedy="List them: esxcli system module list.",
        )
    image = calls.ask(SoftwareList(), SoftwareReply)
    vib = next((one for one in image.vibs if one.vib_id == found.vib_id), None)
    return Answer([_module_facts(found, vib)], structure="ModuleInfo")


def _module_facts(one: ComponentFact, vib: InstalledVib | None) -> Row:
    level = vib.acceptance_level if vib else ""
    digest = one.sha256.hex()
    return {
        "Module": _stem(one),
        "Module File": f"/bootbank/{one.file_name}",
        "License": "",
        "Version": one.vib_version,
        "Build Type": "release",
        "Provided Namespaces": vib.provides if vib else (),
        "Required Namespaces": vib.depends if vib else (),
        "Containing VIB": one.vib_name,
        "VIB Acceptance Level": level,
        "Signed Status": "Signed" if one.signer else "Unsigned",
        "Signature Issuer": one.signer,
        "Signature Digest": " ".join(digest[i : i + _GROUP] for i in range(0, len(digest), _GROUP)),
        "Signature FingerPrint": vib.fingerprint if vib else "",
        "File Version": one.vib_version,
    }


def _refuse(_calls: Calls, options: argparse.Namespace) -> Answer:
    raise NotSupportedError(
        "Modules of this host are loaded as its verified image says, and not by hand.",
        code="module-by-hand",
        component=options.module,
        remedy="Install or remove the VIB that brings it: esxcli software vib.",
    )


def _options(calls: Calls, options: argparse.Namespace) -> Answer:
    running = _words(calls.ask(SoftwareList(), SoftwareReply).kernel_options)
    upcoming = _words(calls.ask(SoftwareList(rebooting=True), SoftwareReply).kernel_options)
    rows: list[Row] = [
        {
            "Name": name,
            "Type": kind,
            "Configured": upcoming.get(name, default),
            "Runtime": running.get(name, default),
            "Default": default,
            "Description": what,
        }
        for name, kind, what, default in KERNEL_OPTIONS
        if options.option in ("", name)
    ]
    if options.delta:
        rows = [row for row in rows if row["Configured"] != row["Default"]]
    return Answer(rows, "table", structure="KernelOption")


def _words(text: str) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in text.split())


def _components(calls: Calls) -> list[ComponentFact]:
    facts = calls.ask(Snapshot(), SnapshotReply).facts
    return [fact for fact in facts if isinstance(fact, ComponentFact) and fact.vib_id]


def _stem(one: ComponentFact) -> str:
    return one.file_name.partition(".")[0]
