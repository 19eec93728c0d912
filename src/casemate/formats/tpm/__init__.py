"""TPM 2.0 structures: what a TPM signs, its keys, their names, and credential challenges."""

from __future__ import annotations

from casemate.formats.tpm.attest import (
    Attest,
    Quote,
    Selection,
    check_nonce,
    check_pcr_values,
    parse_attest,
    pcr_digest,
    write_attest,
    write_quote,
)
from casemate.formats.tpm.credential import ENTROPY_SIZE, Credential, make_credential
from casemate.formats.tpm.ids import tpm2b, untpm2b
from casemate.formats.tpm.pcrs import parse_pcrs_blob
from casemate.formats.tpm.public import (
    Attributes,
    EccKey,
    Public,
    RsaKey,
    Scheme,
    Symmetric,
    check_attestation_key,
    parse_public,
    write_public,
)
from casemate.formats.tpm.signature import (
    Signature,
    parse_signature,
    verify_quote_signature,
    write_signature,
)

__all__ = [
    "ENTROPY_SIZE",
    "Attest",
    "Attributes",
    "Credential",
    "EccKey",
    "Public",
    "Quote",
    "RsaKey",
    "Scheme",
    "Selection",
    "Signature",
    "Symmetric",
    "check_attestation_key",
    "check_nonce",
    "check_pcr_values",
    "make_credential",
    "parse_attest",
    "parse_pcrs_blob",
    "parse_public",
    "parse_signature",
    "pcr_digest",
    "tpm2b",
    "untpm2b",
    "verify_quote_signature",
    "write_attest",
    "write_public",
    "write_quote",
    "write_signature",
]
