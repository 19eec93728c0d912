"""esxcli software: VIBs, image profiles, acceptance levels and depots."""

from __future__ import annotations

import argparse
from collections.abc import Generator

from casemate.calls import software as s
from casemate.calls.esxcli.answer import Answer, Row
from casemate.calls.esxcli.tree import Group, Run, ask, command, namespace
from casemate.errors import NotFoundError

PLATFORM = "host"
WRITING = 900.0
"""Seconds for a change: gigabytes have to be hashed and written."""

ALERT = (
    "SECURITY ALERT: the acceptance level and the signature of what is installed are not checked."
    " The host counts as tainted until it boots without it."
)


def register(namespaces: Group[argparse.ArgumentParser]) -> None:
    """Add the namespace."""
    top = namespace(namespaces, "software", "image profile and VIBs of the host")
    vib = namespace(top, "vib", "VIBs")
    summary = (
        "VIBSummaryExt",
        ("Name", "Version", "Vendor", "Acceptance Level", "Install Date", "Platforms"),
    )
    listed = command(vib, "list", "List the installed VIBs.", _list, table=summary)
    got = command(vib, "get", "Show all that is known of VIBs.", _get)
    got.add_argument("-n", "--vibname", action="append", default=[], help="name, or vendor:name")
    for parser in (listed, got):
        parser.add_argument("--rebooting-image", action="store_true", help="of the next boot")
    for name in ("install", "update"):
        parser = command(vib, name, f"{name.title()} VIBs.", _change, seconds=WRITING)
        parser.set_defaults(action=name)
        parser.add_argument("-v", "--viburl", action="append", default=[], help="VIB file")
        parser.add_argument("-d", "--depot", action="append", default=[], help="offline bundle")
        parser.add_argument("-n", "--vibname", action="append", default=[], help="VIB of a depot")
        _flags(parser)
    removed = command(vib, "remove", "Remove VIBs.", _change, seconds=WRITING)
    removed.set_defaults(action="remove", viburl=[], depot=[])
    removed.add_argument("-n", "--vibname", action="append", required=True, help="VIB")
    _flags(removed)
    signature = namespace(vib, "signature", "signatures of VIBs")
    command(signature, "verify", "Verify the signatures of the installed VIBs.", _verify)
    profile = namespace(top, "profile", "the image profile")
    got = command(profile, "get", "Show the installed image profile.", _profile)
    got.add_argument("--rebooting-image", action="store_true", help="of the next boot")
    command(profile, "validate", "Check the running image.", _validate, seconds=WRITING)
    for name in ("install", "update"):
        parser = command(profile, name, f"{name.title()} a profile.", _change, seconds=WRITING)
        parser.set_defaults(action=f"profile-{name}", viburl=[])
        parser.add_argument("-d", "--depot", action="append", required=True, help="offline bundle")
        parser.add_argument("-p", "--profile", dest="vibname", action="append", required=True)
        _flags(parser)
    acceptance = namespace(top, "acceptance", "the host's acceptance level")
    command(acceptance, "get", "Show the host acceptance level.", _acceptance)
    setter = command(acceptance, "set", "Set the acceptance level.", _set, seconds=WRITING)
    setter.add_argument("-l", "--level", required=True, help="such as PartnerSupported")
    sources = namespace(top, "sources", "depots")
    source_vibs = namespace(sources, "vib", "VIBs of depots")
    looked = command(source_vibs, "list", "List the VIBs of depots.", _sources, seconds=WRITING)
    source_profiles = namespace(sources, "profile", "image profiles of depots")
    named = command(source_profiles, "list", "List profiles.", _profiles, seconds=WRITING)
    for parser in (looked, named):
        parser.add_argument("-d", "--depot", action="append", required=True, help="offline bundle")


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument(
        "-f", "--force", action="store_true", help="do not look at dependencies and conflicts"
    )
    parser.add_argument(
        "--no-sig-check", action="store_true", help="let bad signatures pass; taints the host"
    )
    parser.add_argument("--no-live-install", action="store_true", help="only after a restart")
    parser.add_argument("--maintenance-mode", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--proxy", help=argparse.SUPPRESS)
    parser.add_argument("--ok-to-remove", action="store_true", help=argparse.SUPPRESS)


def _list(options: argparse.Namespace) -> Run:
    image = yield from ask(s.SoftwareList(rebooting=options.rebooting_image), s.SoftwareReply)
    rows: list[Row] = [
        {
            "Name": one.name,
            "Version": one.version,
            "Vendor": one.vendor,
            "Acceptance Level": one.acceptance_level,
            "Install Date": one.install_date,
            "Platforms": PLATFORM,
        }
        for one in sorted(image.vibs, key=lambda one: one.name)
    ]
    return Answer(rows, "table", structure="VIBSummaryExt")


def _get(options: argparse.Namespace) -> Run:
    image = yield from ask(s.SoftwareList(rebooting=options.rebooting_image), s.SoftwareReply)
    vibs = [
        one
        for one in image.vibs
        if not options.vibname or {one.name, f"{one.vendor}:{one.name}"} & set(options.vibname)
    ]
    if not vibs:
        raise NotFoundError(
            f"[NoMatchError] No VIB matching {', '.join(options.vibname)!r} was found.",
            code="no-match",
            remedy="List what is installed: esxcli software vib list.",
        )
    return Answer(
        [_facts(one) for one in vibs], headers=[v.vib_id for v in vibs], structure="VIBExt"
    )


def _facts(one: s.InstalledVib) -> Row:
    return {
        "Name": one.name,
        "Version": one.version,
        "Type": one.type,
        "Vendor": one.vendor,
        "Acceptance Level": one.acceptance_level,
        "Summary": one.summary,
        "Description": one.description,
        "ReferenceURLs": tuple(f"{key}|{href}" for key, href in one.urls),
        "Creation Date": one.creation_date.partition("T")[0],
        "Depends": one.depends,
        "Conflicts": one.conflicts,
        "Replaces": one.replaces,
        "Provides": one.provides,
        "Maintenance Mode Required": one.maintenance_mode_required,
        "Hardware Platforms Required": one.hardware_platforms,
        "Live Install Allowed": one.live_install_allowed,
        "Live Remove Allowed": one.live_remove_allowed,
        "Stateless Ready": one.stateless_ready,
        "Overlay": one.overlay,
        "Tags": one.tags,
        "Payloads": tuple(name for name, _, _ in one.payloads),
        "Platforms": PLATFORM,
        "Signer": one.signer,
        "Trust Anchor": one.anchor,
    }


def _verify(_options: argparse.Namespace) -> Run:
    image = yield from ask(s.SoftwareList(), s.SoftwareReply)
    rows: list[Row] = [
        {
            "Name": one.name,
            "Version": one.version,
            "Vendor": one.vendor,
            "Acceptance Level": one.acceptance_level,
            "Signature Verification": one.signature,
            "Platforms": PLATFORM,
        }
        for one in sorted(image.vibs, key=lambda one: one.name)
    ]
    bad = any(one.signature.startswith("Failed") for one in image.vibs)
    return Answer(rows, "table", structure="VIBSigVerify", status=int(bad))


def _change(options: argparse.Namespace) -> Run:
    removing = options.action == "remove"
    reply = yield from ask(
        s.SoftwareChange(
            session="",
            action=options.action,
            vibs=tuple(options.viburl),
            depots=tuple(options.depot),
            names=tuple(options.vibname),
            dry_run=options.dry_run,
            force=options.force,
            no_sig_check=options.no_sig_check,
            no_live_install=options.no_live_install,
        ),
        s.ChangeReply,
    )
    row: Row = {
        "Message": f"{reply.message} {ALERT}" if options.no_sig_check else reply.message,
        "VIBs Installed": reply.installed,
        "VIBs Removed": reply.removed,
        "VIBs Skipped": reply.skipped,
        "Reboot Required": reply.reboot_required,
        "DPU Results": "",
    }
    title = "Removal Result" if removing else "Installation Result"
    return Answer([row], headers=[title], structure="InstallationResult")


def _profile(options: argparse.Namespace) -> Run:
    image = yield from ask(s.SoftwareList(rebooting=options.rebooting_image), s.SoftwareReply)
    row: Row = {
        "Name": image.profile,
        "Vendor": image.vendor,
        "Creation Time": image.created,
        "Modification Time": image.created,
        "Stateless Ready": all(one.stateless_ready for one in image.vibs),
        "Description": "",
        "Acceptance Level": image.acceptance_level,
        "Build": image.build,
        "Tainted": image.taints,
        "VIBs": tuple(f"{one.name} {one.version}" for one in image.vibs),
    }
    return Answer([row], headers=[image.profile], structure="ImageProfile")


def _validate(_options: argparse.Namespace) -> Run:
    reply = yield from ask(s.SoftwareValidate(), s.ValidationReply)
    row: Row = {
        "Valid": not reply.findings,
        "Problems": tuple(f"{vib}: {reason}" for _, vib, reason, _ in reply.findings),
    }
    return Answer([row], headers=[reply.profile], status=int(bool(reply.findings)))


def _acceptance(_options: argparse.Namespace) -> Run:
    reply = yield from ask(s.AcceptanceGet(), s.LevelReply)
    return Answer((), "text", text=reply.level)


def _set(options: argparse.Namespace) -> Run:
    reply = yield from ask(s.AcceptanceSet(session="", level=options.level), s.LevelReply)
    text = f"Host acceptance level changed to '{reply.level}'; in force after the next boot."
    return Answer((), "text", text=text)


def _sources(options: argparse.Namespace) -> Run:
    looked = yield from _look(options)
    rows: list[Row] = [
        {
            "Name": one.name,
            "Version": one.version,
            "Vendor": one.vendor,
            "Creation Date": one.creation_date.partition("T")[0],
            "Acceptance Level": one.acceptance_level,
            "Status": one.signature,
        }
        for one in looked.vibs
    ]
    return Answer(rows, "table", structure="VIBSummaryExt")


def _profiles(options: argparse.Namespace) -> Run:
    looked = yield from _look(options)
    rows: list[Row] = [{"Name": name} for name in looked.profiles]
    return Answer(rows, "table", structure="ProfileSummary")


def _look(options: argparse.Namespace) -> Generator[object, object, s.DepotReply]:
    return (yield from ask(s.DepotList("", tuple(options.depot)), s.DepotReply))
