"""esxcli system: version, modules, boot options."""

from __future__ import annotations

import argparse
from collections.abc import Generator

from casemate.calls.esxcli import maintenance
from casemate.calls.esxcli.answer import Answer, Row
from casemate.calls.esxcli.hardware import facts_of, host_fact
from casemate.calls.esxcli.settings import register_system
from casemate.calls.esxcli.tree import Group, Run, ask, command, namespace
from casemate.calls.software import InstalledVib, SoftwareList, SoftwareReply
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
    shown = ("Module", ("Name", "Is Loaded", "Is Enabled"))
    listed = command(module, "list", "List the modules.", _modules, table=shown)
    listed.add_argument("-l", "--loaded", help=argparse.SUPPRESS)
    listed.add_argument("-e", "--enabled", help=argparse.SUPPRESS)
    got = command(module, "get", "Show a module and who signed it.", _module)
    got.add_argument("-m", "--module", required=True)
    for name in ("load", "set"):
        parser = command(module, name, f"{name.title()} a module.", _refuse)
        parser.add_argument("-m", "--module", required=True)
        parser.add_argument("-e", "--enabled", help=argparse.SUPPRESS)
        parser.add_argument("-f", "--force", action="store_true", help=argparse.SUPPRESS)
    settings = namespace(top, "settings", "settings")
    kernel = namespace(settings, "kernel", "boot options")
    options = command(kernel, "list", "List the options of the kernel.", _options)
    options.add_argument("-o", "--option", default="", help="only this one")
    options.add_argument("-d", "--delta", action="store_true", help="only those that were changed")
    register_system(top, settings)
    maintenance.register(top)


def _version(_options: argparse.Namespace) -> Run:
    host = yield from host_fact()
    row: Row = {
        "Product": "Casemate",
        "Version": host.product_version,
        "Build": host.build,
        "Update": "0",
        "Patch": "0",
    }
    return Answer([row], structure="VersionGet")


def _modules(_options: argparse.Namespace) -> Run:
    components = yield from _components()
    rows: list[Row] = [
        {"Name": _stem(one), "Is Loaded": True, "Is Enabled": True} for one in components
    ]
    return Answer(rows, "table", structure="Module")


def _module(options: argparse.Namespace) -> Run:
    components = yield from _components()
    found = next(
        (o for o in components if options.module in (_stem(o), o.file_name, o.vib_name)),
        None,
    )
    if found is None:
        raise NotFoundError(
            f"There is no module {options.module!r}.",
            component=options.module,
            remedy="List them: esxcli system module list.",
        )
    image = yield from ask(SoftwareList(), SoftwareReply)
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


def _refuse(options: argparse.Namespace) -> Run:
    yield from ()
    raise NotSupportedError(
        "Modules of this host are loaded as its verified image says, and not by hand.",
        code="module-by-hand",
        component=options.module,
        remedy="Install or remove the VIB that brings it: esxcli software vib.",
    )


def _options(options: argparse.Namespace) -> Run:
    image = yield from ask(SoftwareList(), SoftwareReply)
    after = yield from ask(SoftwareList(rebooting=True), SoftwareReply)
    running, upcoming = _words(image.kernel_options), _words(after.kernel_options)
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


def _components() -> Generator[object, object, list[ComponentFact]]:
    facts = yield from facts_of(ComponentFact)
    return [fact for fact in facts if fact.vib_id]


def _stem(one: ComponentFact) -> str:
    return one.file_name.partition(".")[0]
