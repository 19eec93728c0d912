"""Whether a Linux module may be loaded: signed by one of the keys that its kernel trusts.

Debian's modules are signed by a key that was made for the build and thrown away; its certificate is
inside the kernel image and nowhere in the signature. The keys are therefore given, and no chain is
built. Linux asks the same again when it loads the module.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509

from casemate.errors import SignatureError
from casemate.formats.cms import Signed, verify_detached
from casemate.formats.kmod import split_module


def verify_module(
    data: bytes | memoryview, keys: Sequence[x509.Certificate], *, component: str
) -> Signed:
    """Return who signed a module.

    Args:
        data: The whole file, not compressed.
        keys: Certificates of the keys that the kernel trusts for modules.
        component: The module's name.

    Raises:
        FormatError: Its signature cannot be taken off.
        SignatureError: ``signature-missing``, ``signer-untrusted`` (by none of the keys), or as
            ``verify_detached`` says.
    """
    module = split_module(data, component=component)
    if not module.signature:
        raise SignatureError(
            f"The module {component} is not signed.",
            code="signature-missing",
            component=component,
            remedy="Use the module that came with the kernel, or have this one signed.",
        )
    try:
        signed = verify_detached(
            module.signature, module.content, certificates=keys, component=component
        )
    except SignatureError as error:
        if error.code != "signer-missing":
            raise
        raise SignatureError(
            f"The module {component} is signed by none of the {len(keys)} keys of this kernel.",
            code="signer-untrusted",
            component=component,
            remedy="Use the module that came with this very kernel.",
        ) from error
    if signed.certificate not in keys:
        raise SignatureError(
            f"The module {component} brings its signer along, whom this kernel does not trust.",
            code="signer-untrusted",
            component=component,
            remedy="Use the module that came with this very kernel.",
        )
    return signed
