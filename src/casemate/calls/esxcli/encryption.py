"""esxcli system settings encryption: how the state is encrypted, and its recovery key."""

from __future__ import annotations

import argparse

from casemate.calls.encryption import (
    EncryptionGet,
    EncryptionReply,
    EncryptionSet,
    RecoveryList,
    RecoveryReply,
    RecoveryRotate,
)
from casemate.calls.esxcli.answer import Answer, Row
from casemate.calls.esxcli.hostinterface import truth
from casemate.calls.esxcli.tree import Group, Run, ask, command, namespace
from casemate.errors import NotSupportedError


def register(settings: Group[argparse.ArgumentParser]) -> None:
    """Add the namespace to system settings."""
    top = namespace(settings, "encryption", "encryption of the host's state")
    command(top, "get", "Show how the state is encrypted.", _get)
    changed = command(top, "set", "Change what the state is sealed to.", _set)
    changed.add_argument("-m", "--mode", choices=("TPM", "NONE"), type=str.upper)
    changed.add_argument("-e", "--require-exec-installed-only", type=truth)
    changed.add_argument("-s", "--require-secure-boot", type=truth)
    recovery = namespace(top, "recovery", "recovery keys")
    shown = ("Recovery", ("Recovery ID", "Key"))
    command(recovery, "list", "Show the recovery key.", _list, table=shown)
    command(recovery, "rotate", "Replace the recovery key by a new one.", _rotate, table=shown)


def _get(_options: argparse.Namespace) -> Run:
    found = yield from ask(EncryptionGet(), EncryptionReply)
    row: Row = {
        "Mode": found.mode,
        "Require Executables Only From Installed VIBs": found.require_exec_installed_only,
        "Require Secure Boot": found.require_secure_boot,
    }
    return Answer([row], structure="EncryptionGet")


def _list(_options: argparse.Namespace) -> Run:
    return _keys((yield from ask(RecoveryList(), RecoveryReply)))


def _rotate(_options: argparse.Namespace) -> Run:
    return _keys((yield from ask(RecoveryRotate(), RecoveryReply)))


def _keys(found: RecoveryReply) -> Answer:
    rows: list[Row] = []
    if found.key:
        rows = [{"Recovery ID": f"{{{found.recovery_id.upper()}}}", "Key": found.key}]
    return Answer(rows, "table", structure="Recovery")


def _set(options: argparse.Namespace) -> Run:
    if options.mode == "NONE":
        raise _fixed("The state stays encrypted: what was written cannot be made plain.")
    if options.require_secure_boot is False:
        raise _fixed("The state stays sealed to Secure Boot.")
    if options.require_exec_installed_only is not None:
        yield from ask(EncryptionSet("", options.require_exec_installed_only), EncryptionReply)
    else:
        found = yield from ask(EncryptionGet(), EncryptionReply)
        if found.mode == "None":
            raise _fixed("The state of a host on an installed system is that system's to encrypt.")
    return Answer((), "text")


def _fixed(reason: str) -> NotSupportedError:
    return NotSupportedError(
        reason,
        code="encryption-fixed",
        component="state",
        remedy="Show it: esxcli system settings encryption get.",
    )
