"""esxcli system: version, modules, boot options."""

from __future__ import annotations

import argparse
from collections.abc import Generator

from casemate.calls.esxcli import encryption, maintenance
from casemate.calls.esxcli.answer import Answer, Row
from casemate.calls.esxcli.hardware import clock_time, facts_of, host_fact
from casemate.calls.esxcli.settings import register_system
from casemate.calls.esxcli.tree import Group, Run, ask, command, namespace
from casemate.calls.messages import Empty
from casemate.calls.modules import Module, ModuleList, ModuleLoad, ModuleSet, ModulesReply
from casemate.calls.software import BootOptionSet, InstalledVib, SoftwareList, SoftwareReply
from casemate.errors import ArgumentError
from casemate.machine.facts import ComponentFact
from casemate.policy.options import BOOT_OPTIONS

_GROUP = 4


def register(namespaces: Group[argparse.ArgumentParser]) -> None:
    """Add the namespace."""
    top = namespace(namespaces, "system", "the host as a system")
    command(namespace(top, "version", "version"), "get", "Show the version.", _version)
    module = namespace(top, "module", "modules of the running image")
    shown = ("Module", ("Name", "Is Loaded", "Is Enabled"))
    listed = command(module, "list", "List the modules.", _modules, table=shown)
    listed.add_argument("-l", "--loaded", help="true: only these; false: only others")
    listed.add_argument("-e", "--enabled", help="true: only these; false: only others")
    got = command(module, "get", "Show a module and who signed it.", _module)
    loaded = command(module, "load", "Load a Linux module or a plug-in of a VIB.", _load)
    loaded.add_argument("-f", "--force", action="store_true", help=argparse.SUPPRESS)
    changed = command(
        module, "set", "Set whether a module or plug-in is loaded at every start.", _set
    )
    changed.add_argument("-e", "--enabled", required=True, help="true or false")
    changed.add_argument("-f", "--force", action="store_true", help=argparse.SUPPRESS)
    parameters = namespace(module, "parameters", "parameters of Linux modules")
    columns = ("ModuleParameter", ("Name", "Type", "Value", "Description"))
    told = command(parameters, "list", "List a module's parameters.", _parameters, table=columns)
    given = command(parameters, "set", "Set what a module is loaded with.", _set_parameters)
    given.add_argument("-p", "--parameter-string", required=True, help="such as 'debug=1 rings=4'")
    given.add_argument("-a", "--append", action="store_true", help="keep the others")
    given.add_argument("-f", "--force", action="store_true", help=argparse.SUPPRESS)
    for parser in (got, loaded, changed, told, given):
        parser.add_argument("-m", "--module", required=True, help="its name")
    settings = namespace(top, "settings", "settings")
    kernel = namespace(settings, "kernel", "boot options")
    options = command(kernel, "list", "List the options of the kernel.", _options)
    options.add_argument("-o", "--option", default="", help="only this one")
    options.add_argument("-d", "--delta", action="store_true", help="only those that were changed")
    chosen = command(kernel, "set", "Set an option of the kernel for the next start.", _set_option)
    chosen.add_argument("-s", "--setting", required=True, help="its name")
    chosen.add_argument("-v", "--value", required=True, help="its value")
    clock = namespace(top, "time", "the clock")
    command(clock, "get", "Show the time, in UTC.", clock_time)
    register_system(top, settings)
    encryption.register(settings)
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


def _modules(options: argparse.Namespace) -> Run:
    components = yield from _components()
    loadable = (yield from ask(ModuleList(), ModulesReply)).modules
    rows: list[Row] = [
        *(_state(_stem(one), loaded=True, enabled=True) for one in components),
        *(_state(one.name, loaded=one.loaded, enabled=one.enabled) for one in loadable),
    ]
    for label, wanted in (("Is Loaded", options.loaded), ("Is Enabled", options.enabled)):
        if wanted is not None:
            rows = [row for row in rows if row[label] is _truth(wanted)]
    return Answer(rows, "table", structure="Module")


def _state(name: str, *, loaded: bool, enabled: bool) -> Row:
    return {"Name": name, "Is Loaded": loaded, "Is Enabled": enabled}


def _module(options: argparse.Namespace) -> Run:
    components = yield from _components()
    found = next(
        (o for o in components if options.module in (_stem(o), o.file_name, o.vib_name)),
        None,
    )
    if found is None:
        reply = yield from ask(ModuleList(name=options.module), ModulesReply)
        return Answer([_loadable_facts(reply.modules[0])], structure="ModuleInfo")
    image = yield from ask(SoftwareList(), SoftwareReply)
    vib = next((one for one in image.vibs if one.vib_id == found.vib_id), None)
    return Answer([_module_facts(found, vib)], structure="ModuleInfo")


def _loadable_facts(one: Module) -> Row:
    return {
        "Module": one.name,
        "Module File": one.file,
        "License": one.license,
        "Version": one.version,
        "Build Type": "release",
        "Provided Namespaces": one.provides,
        "Required Namespaces": one.depends,
        "Containing VIB": one.vib,
        "VIB Acceptance Level": one.level,
        "Signed Status": one.status,
        "Signature Issuer": one.issuer,
        "Signature Digest": _grouped(one.digest),
        "Signature FingerPrint": one.fingerprint,
        "File Version": one.vib_version,
        "Kind": one.kind,
    }


def _load(options: argparse.Namespace) -> Run:
    yield from ask(ModuleLoad("", options.module), Empty)
    return Answer((), "text")


def _set(options: argparse.Namespace) -> Run:
    yield from ask(ModuleSet("", options.module, enabled=_truth(options.enabled)), Empty)
    return Answer((), "text")


def _parameters(options: argparse.Namespace) -> Run:
    reply = yield from ask(ModuleList(name=options.module), ModulesReply)
    one = reply.modules[0]
    given = _words(one.options)
    rows: list[Row] = [
        {"Name": name, "Type": kind, "Value": given.get(name, ""), "Description": what}
        for name, kind, what in one.parameters
    ]
    return Answer(rows, "table", structure="ModuleParameter")


def _set_parameters(options: argparse.Namespace) -> Run:
    text = " ".join(options.parameter_string.split())
    if options.append:
        reply = yield from ask(ModuleList(name=options.module), ModulesReply)
        merged = _words(reply.modules[0].options) | _words(text)
        text = " ".join(f"{name}={value}" for name, value in merged.items())
    yield from ask(ModuleSet("", options.module, options=text), Empty)
    return Answer((), "text")


def _truth(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0", "yes", "no"}:
        raise ArgumentError(f"{text!r} is neither true nor false.", argument="enabled")
    return text.lower() in {"true", "1", "yes"}


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
        "Signature Digest": _grouped(digest),
        "Signature FingerPrint": vib.fingerprint if vib else "",
        "File Version": one.vib_version,
        "Kind": "payload",
    }


def _grouped(digest: str) -> str:
    return " ".join(digest[i : i + _GROUP] for i in range(0, len(digest), _GROUP))


def _options(options: argparse.Namespace) -> Run:
    image = yield from ask(SoftwareList(), SoftwareReply)
    after = yield from ask(SoftwareList(rebooting=True), SoftwareReply)
    running, upcoming = _words(image.kernel_options), _words(after.kernel_options)
    rows: list[Row] = [
        {
            "Name": one.name,
            "Type": one.kind,
            "Configured": upcoming.get(one.name, one.default),
            "Runtime": running.get(one.name, one.default),
            "Default": one.default,
            "Description": one.description,
        }
        for one in BOOT_OPTIONS.values()
        if options.option in ("", one.name)
    ]
    if options.delta:
        rows = [row for row in rows if row["Configured"] != row["Default"]]
    return Answer(rows, "table", structure="KernelOption")


def _set_option(options: argparse.Namespace) -> Run:
    yield from ask(BootOptionSet("", options.setting, options.value, "esxcli"), Empty)
    return Answer((), "text")


def _words(text: str) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in text.split())


def _components() -> Generator[object, object, list[ComponentFact]]:
    facts = yield from facts_of(ComponentFact)
    return [fact for fact in facts if fact.vib_id]


def _stem(one: ComponentFact) -> str:
    return one.file_name.partition(".")[0]
