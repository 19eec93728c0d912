"""What a TPM's refusals mean, in words, and what to do about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from casemate.errors import TpmError

_LAYER_MASK = 0xFF0000
_TCTI_LAYER = 0x0A0000  # the TSS's code for errors of the transport: TSS2_TCTI_RC_LAYER
_SENTENCES: Mapping[int, tuple[str, str, str]] = {
    0x907: (
        "tpm-locality",
        "the TPM does not let this PCR be extended from this locality",
        "PCR 17-22 need a D-RTM launch and locality 2: use the embedded TPM or a TXT boot.",
    ),
    0x902: (
        "tpm-memory",
        "the TPM has no room for another object",
        "Flush what other programs left in the TPM: tpm2_flushcontext -t.",
    ),
    0x903: (
        "tpm-memory",
        "the TPM has no room for another session",
        "Flush what other programs left in the TPM: tpm2_flushcontext -l.",
    ),
    0x921: (
        "tpm-lockout",
        "the TPM is locked out after wrong authorisations",
        "Wait for the lockout to end, or clear it: tpm2_dictionarylockout.",
    ),
    0x922: ("tpm-busy", "the TPM asks to try again", "Try again in a moment."),
    0x101: ("tpm-failure", "the TPM is in failure mode", "Power the machine off and on."),
    0x9A2: (
        "tpm-auth",
        "the TPM's hierarchy has a password that is not known here",
        "Clear the endorsement hierarchy's password in the firmware's setup.",
    ),
    0x99D: (
        "tpm-policy",
        "the policy of the object is not fulfilled",
        "Give what its policy asks for.",
    ),
    0x1DF: (
        "activation",
        "the credential challenge was not made for this TPM's keys",
        "Ask for the host's identity again and make a new challenge.",
    ),
}


def told(error: Any, kind: str) -> TpmError:  # noqa: ANN401 (the binding has no types)
    """Return our error for one of the binding's; ``kind`` is which TPM it is."""
    code = int(error.rc)
    bare = int(error.error) if code & 0x80 else code
    if code & _LAYER_MASK == _TCTI_LAYER:
        return TpmError(f"the TPM does not answer: {error}", code="tpm-gone", component=kind)
    for key in (code, bare):
        if key in _SENTENCES:
            name, sentence, remedy = _SENTENCES[key]
            return TpmError(sentence, code=name, component=kind, remedy=remedy)
    return TpmError(f"the TPM refused a command: {error} ({code:#x})", component=kind)
