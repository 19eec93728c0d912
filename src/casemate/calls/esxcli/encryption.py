"""esxcli system settings encryption: how the state is encrypted, and its recovery key."""

from __future__ import annotations

import argparse

from casemate.calls.encryption import (
    EncryptionGet,
    EncryptionReply,
    RecoveryList,
    RecoveryReply,
    RecoveryRotate,
)
from casemate.calls.esxcli.answer import Answer, Row
from casemate.calls.esxcli.tree import Group, Run, ask, command, namespace
from casemate.errors import NotSupportedError


def register(settings: Group[argparse.ArgumentParser]) -> None:
    """Add the namespace to system settings."""
    top = namespace(settings, "encryption", "encryption of the host's state")
    command(top, "get", "Show how the state is encrypted.", _get)
    changed = command(top, "set", "Change how the state is encrypted.", _refuse)
    for option in ("--mode", "--require-exec-installed-only", "--require-secure-boot"):
        changed.add_argument(option)
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


def _refuse(_options: argparse.Namespace) -> Run:
    yield from ask(EncryptionGet(), EncryptionReply)
    raise NotSupportedError(
        "The state of a machine is sealed to its TPM and Secure Boot from the first start on; that "
        "of a host on an installed system is that system's to encrypt.",
        code="encryption-fixed",
        component="state",
        remedy="Show it: esxcli system settings encryption get.",
    )
