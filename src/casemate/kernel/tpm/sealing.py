"""Sealing a secret to this TPM and its PCRs, and getting it back.

The parent is a storage key made anew each time from a fixed template, so nothing is stored in the
TPM. The secret goes there and comes back over sessions that are salted by that key and encrypt it:
who listens on the wires of a discrete TPM learns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tpm2_pytss as tss

from casemate.errors import TpmError
from casemate.kernel.tpm.device import Tpm
from casemate.policy.sealing import BANK, policy_digest

_STORAGE = (
    tss.TPMA_OBJECT.FIXEDTPM
    | tss.TPMA_OBJECT.FIXEDPARENT
    | tss.TPMA_OBJECT.SENSITIVEDATAORIGIN
    | tss.TPMA_OBJECT.USERWITHAUTH
    | tss.TPMA_OBJECT.NODA
    | tss.TPMA_OBJECT.RESTRICTED
    | tss.TPMA_OBJECT.DECRYPT
)
_SEALED = tss.TPMA_OBJECT.FIXEDTPM | tss.TPMA_OBJECT.FIXEDPARENT | tss.TPMA_OBJECT.NODA


def seal(tpm: Tpm, secret: bytes, values: dict[int, bytes]) -> tuple[bytes, bytes]:
    """Seal a secret; return TPM2B_PUBLIC and TPM2B_PRIVATE.

    Args:
        tpm: the only one that can give it back.
        secret: at most 128 bytes.
        values: PCRs of the SHA-256 bank that must have these values then.

    Raises:
        TpmError: the TPM refuses.
    """
    template = tss.TPM2B_PUBLIC.parse(
        "keyedhash", objectAttributes=_SEALED, authPolicy=policy_digest(values)
    )
    sensitive = tss.TPM2B_SENSITIVE_CREATE(
        tss.TPMS_SENSITIVE_CREATE(data=tss.TPM2B_SENSITIVE_DATA(secret))
    )
    with (
        _storage_key(tpm) as parent,
        _session(tpm, parent, tss.TPM2_SE.HMAC, tss.TPMA_SESSION.DECRYPT) as session,
    ):
        private, public, *_ = tpm.command("create", parent, sensitive, template, session2=session)
    return bytes(public.marshal()), bytes(private.marshal())


def unseal(tpm: Tpm, public: bytes, private: bytes, pcrs: Sequence[int]) -> bytes:
    """Return a sealed secret.

    Raises:
        TpmError: ``seal-pcrs``: the PCRs have other values; ``seal-foreign``: another TPM sealed
            it, or it was changed.
    """
    try:
        inner, _ = tss.TPM2B_PUBLIC.unmarshal(public)
        outer, _ = tss.TPM2B_PRIVATE.unmarshal(private)
    except (tss.TSS2_Exception, OverflowError, ValueError) as error:
        raise _foreign(tpm) from error
    with _storage_key(tpm) as parent:
        try:
            item = tpm.command("load", parent, outer, inner)
        except TpmError as error:
            if error.code in {"tpm-gone", "tpm-memory", "tpm-failure"}:
                raise
            raise _foreign(tpm) from error
        try:
            return _unseal(tpm, parent, item, pcrs)
        finally:
            tpm.command("flush_context", item)


def _unseal(tpm: Tpm, parent: Any, item: Any, pcrs: Sequence[int]) -> bytes:  # noqa: ANN401 (the binding has no types)
    selection = tss.TPML_PCR_SELECTION.parse(f"{BANK}:{','.join(map(str, sorted(pcrs)))}")
    try:
        with _session(tpm, parent, tss.TPM2_SE.POLICY, tss.TPMA_SESSION.ENCRYPT) as session:
            tpm.command("policy_pcr", session, b"", selection)
            return bytes(tpm.command("unseal", item, session1=session))
    except TpmError as error:
        if error.code != "tpm-policy":
            raise
        raise TpmError(
            "the PCRs are not those that the key was sealed to",
            code="seal-pcrs",
            component=tpm.kind,
            remedy="Give the recovery key.",
        ) from error


@contextmanager
def _session(tpm: Tpm, parent: Any, kind: Any, way: Any) -> Iterator[Any]:  # noqa: ANN401 (the binding has no types)
    """Open a session that encrypts what goes to the TPM (DECRYPT) or comes back (ENCRYPT)."""
    session = tpm.command(
        "start_auth_session",
        parent,
        tss.ESYS_TR.NONE,
        kind,
        tss.TPMT_SYM_DEF(
            algorithm=tss.TPM2_ALG.AES,
            keyBits=tss.TPMU_SYM_KEY_BITS(aes=128),
            mode=tss.TPMU_SYM_MODE(aes=tss.TPM2_ALG.CFB),
        ),
        tss.TPM2_ALG.SHA256,
    )
    try:
        tpm.command("trsess_set_attributes", session, tss.TPMA_SESSION.CONTINUESESSION | way)
        yield session
    finally:
        tpm.command("flush_context", session)


@contextmanager
def _storage_key(tpm: Tpm) -> Iterator[Any]:
    template = tss.TPM2B_PUBLIC.parse("ecc256:aes128cfb", objectAttributes=_STORAGE)
    key, *_ = tpm.command(
        "create_primary", tss.TPM2B_SENSITIVE_CREATE(), template, tss.ESYS_TR.OWNER
    )
    try:
        yield key
    finally:
        tpm.command("flush_context", key)


def _foreign(tpm: Tpm) -> TpmError:
    return TpmError(
        "the key was sealed by another TPM, or was changed",
        code="seal-foreign",
        component=tpm.kind,
        remedy="Give the recovery key.",
    )
