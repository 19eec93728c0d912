"""What is told of the state's encryption: the key to those who may, and nothing that is not so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from casemate.calls.encryption import (
    EncryptionGet,
    EncryptionReply,
    EncryptionSet,
    RecoveryList,
    RecoveryReply,
    RecoveryRotate,
)
from casemate.errors import NotSupportedError
from casemate.formats.statekey import FILE, Sealed, StateKey, write_state_key
from casemate.kernel import encryption
from casemate.kernel.boot.statedisk import (
    RECOVERY,
    new_record,
    read_record,
    write_record,
    write_recovery,
)
from casemate.kernel.encryption import Encryption
from casemate.kernel.home import Home
from casemate.policy.sealing import (
    KEY_SIZE,
    RECOVERY_SIZE,
    parse_recovery,
    recovery_text,
    unwrap,
)

IDENTIFIER = "00000000-0000-4000-8000-000000000001"


async def no_tpm(_work: object) -> object:
    raise AssertionError("nobody asked the TPM")


def ask(home: Home, request: object, *, sealed: bool) -> object:
    handlers = Encryption(home, sealed=sealed, with_tpm=no_tpm, told=lambda _: None).handlers()
    return asyncio.run(handlers[type(request)](request, None))


def test_a_sealed_state_is_told_and_its_key_only_where_it_is_asked_for(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    record = StateKey(1, IDENTIFIER, b"", b"", Sealed(((7, bytes(32)),), b"", b""))
    (home.banks[0] / FILE).write_bytes(write_state_key(record))
    (home.state / RECOVERY).write_text(f"{IDENTIFIER} 111111-222222\n")
    told = ask(home, EncryptionGet(), sealed=True)
    assert told == EncryptionReply("TPM", True, False, IDENTIFIER)
    assert "111111" not in repr(told)
    assert ask(home, RecoveryList(), sealed=True) == RecoveryReply(IDENTIFIER, "111111-222222")
    assert RecoveryList.privilege == "Host.Config.Settings"


def test_a_state_that_is_not_encrypted_has_no_mode_and_no_key(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    assert ask(home, EncryptionGet(), sealed=False) == EncryptionReply("None", False, False)
    assert ask(home, RecoveryList(), sealed=False) == RecoveryReply("", "")


def test_a_key_of_another_record_is_not_shown_as_this_ones(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    record = StateKey(1, IDENTIFIER, b"", b"", Sealed(((7, bytes(32)),), b"", b""))
    (home.banks[0] / FILE).write_bytes(write_state_key(record))
    (home.state / RECOVERY).write_text("another 111111-222222\n")
    assert ask(home, RecoveryList(), sealed=True) == RecoveryReply("", "")


def test_without_encryption_there_is_nothing_to_rotate(tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError):
        ask(Home(tmp_path), RecoveryRotate(), sealed=False)


def test_a_state_that_needs_exec_installed_only_is_told_and_published(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    sealed = Sealed(((7, bytes(32)), (15, bytes(32))), b"", b"")
    (home.banks[0] / FILE).write_bytes(write_state_key(StateKey(1, IDENTIFIER, b"", b"", sealed)))
    assert ask(home, EncryptionGet(), sealed=True) == EncryptionReply("TPM", True, True, IDENTIFIER)
    published: list[bool] = []
    Encryption(home, sealed=True, with_tpm=no_tpm, told=published.append)
    assert published == [True]


def test_what_is_asked_for_already_needs_no_tpm_and_changes_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    record = write_state_key(StateKey(1, IDENTIFIER, b"", b"", Sealed(((7, bytes(32)),), b"", b"")))
    (home.banks[0] / FILE).write_bytes(record)
    told = ask(home, EncryptionSet("", require_exec_installed_only=False), sealed=True)
    assert told == EncryptionReply("TPM", True, False, IDENTIFIER)
    assert (home.banks[0] / FILE).read_bytes() == record


def test_a_state_that_is_not_encrypted_cannot_be_sealed_to_an_option(tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError):
        ask(Home(tmp_path), EncryptionSet("", require_exec_installed_only=True), sealed=False)


KEY = b"k" * KEY_SIZE


class KilledError(Exception):
    """The kernel is killed here."""


@pytest.mark.parametrize("writes", range(3))
def test_a_rotation_that_is_cut_off_leaves_a_recovery_key_that_opens_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Cut off before the first, the second or the third thing that is written."""
    home = Home(tmp_path)
    home.create()
    recovery = b"r" * RECOVERY_SIZE
    record = replace(new_record(KEY, recovery, Sealed(((7, bytes(32)),), b"", b"")), fresh=False)
    write_record(home, record)
    write_recovery(home, {record.recovery_id: recovery_text(recovery)})
    left = [writes]

    def limited(real: Callable[..., None]) -> Callable[..., None]:
        def write(*arguments: object) -> None:
            if not left[0]:
                raise KilledError
            left[0] -= 1
            real(*arguments)

        return write

    monkeypatch.setattr(encryption, "write_record", limited(write_record))
    monkeypatch.setattr(encryption, "write_recovery", limited(write_recovery))

    async def with_tpm(_work: object) -> object:
        return KEY

    handlers = Encryption(home, sealed=True, with_tpm=with_tpm, told=lambda _: None).handlers()
    with pytest.raises(KilledError):
        asyncio.run(handlers[RecoveryRotate](RecoveryRotate(""), None))
    told = ask(home, RecoveryList(), sealed=True)
    assert isinstance(told, RecoveryReply)
    kept = read_record(home)
    assert kept is not None
    assert told.recovery_id == kept.recovery_id
    opened = unwrap(kept.box, parse_recovery(told.key), kept.recovery_id, kept.nonce)
    assert opened == KEY
    assert (kept.recovery_id == record.recovery_id) is (writes < 2)
