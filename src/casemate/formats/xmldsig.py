"""Signatures in XML (W3C REC-xmldsig-core1), as reference manifests of machine makers carry them.

Of all that a signature may say there, exactly this is accepted: it stands directly in the root,
and covers the whole document but itself, by one reference; SHA-2 digests; RSA (PKCS #1 v1.5) or
ECDSA. Anything else is refused, so that what is read is what was signed.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from casemate.errors import FormatError, SignatureError
from casemate.formats.algorithms import digest
from casemate.formats.certificates import load_certificate
from casemate.formats.xmlcanon import Method, Node, canonical, read

T = TypeVar("T")

DSIG: Final = "http://www.w3.org/2000/09/xmldsig#"
ENVELOPED: Final = DSIG + "enveloped-signature"
_MORE: Final = "http://www.w3.org/2001/04/xmldsig-more#"
_ENC: Final = "http://www.w3.org/2001/04/xmlenc#"
_DIGESTS: Final = {_ENC + "sha256": "sha256", _MORE + "sha384": "sha384", _ENC + "sha512": "sha512"}
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_METHODS: Final = {
    f"{_MORE}{kind}-{name}": (kind, name) for kind in ("rsa", "ecdsa") for name in _HASHES
}
_COMPONENT: Final = "reference"
MIN_RSA: Final = 2048
"""Bits."""
MAX_CERTIFICATES: Final = 8


def verify_enveloped(
    data: bytes, certificate: x509.Certificate | None = None
) -> tuple[x509.Certificate, ...]:
    """Check that a document is what a key signed; return the key's certificate, then others sent.

    Whether that key counts is for the caller to decide. ``certificate`` is the signer's where it
    is known; otherwise the document must bring it.

    Raises:
        SignatureError: ``signature-missing``, ``signer-missing``, ``signature-unsupported``,
            ``weak-algorithm``, ``signature-invalid``, ``content-changed``.
        FormatError, LimitError: it is no such document, as ``xmlcanon.read`` says.
    """
    root = read(data, component=_COMPONENT)
    found = [child for child in root.children() if child.name == (DSIG, "Signature")]
    if len(found) != 1:
        raise _refused("The document has no signature, or several.", "signature-missing")
    (signature,) = found
    info, value = _only(signature, "SignedInfo"), _only(signature, "SignatureValue")
    sent = _certificates(signature)
    chain = (certificate, *sent) if certificate is not None else sent
    if not chain:
        raise _refused(
            "The document does not bring its signer's certificate; name it with --rim-signer.",
            "signer-missing",
        )
    kind, name = _algorithm(_only(info, "SignatureMethod"), _METHODS)
    signed = canonical(info, _method(_only(info, "CanonicalizationMethod")))
    _check_key(chain[0], kind, name, _bytes(value), signed)
    _check_reference(root, signature, info)
    return chain


def _check_reference(root: Node, signature: Node, info: Node) -> None:
    reference = _only(info, "Reference")
    if reference.attributes.get("URI") != "":
        raise _unsupported("its signature does not cover the whole document")
    transforms = list(_only(reference, "Transforms").children())
    steps = [one.attributes.get("Algorithm", "") for one in transforms]
    for one in transforms:
        if one.name != (DSIG, "Transform") or any(one.children()):
            raise _unsupported("a transform with parameters")
    if not steps or steps[0] != ENVELOPED or len(steps) > 2:  # noqa: PLR2004 (and one canonical form)
        raise _unsupported("it is to be changed in other ways than leaving the signature out")
    method = Method.C14N_10 if len(steps) == 1 else _known(steps[1])
    algorithm = _algorithm(_only(reference, "DigestMethod"), _DIGESTS)
    expected = _bytes(_only(reference, "DigestValue"))
    found = digest(algorithm, canonical(root, method, signature))
    if not hmac.compare_digest(found, expected):
        raise SignatureError(
            "The document was changed after it was signed.",
            code="content-changed",
            component=_COMPONENT,
        )


def _check_key(
    certificate: x509.Certificate, kind: str, name: str, value: bytes, signed: bytes
) -> None:
    key, algorithm = certificate.public_key(), _HASHES[name]
    try:
        if kind == "rsa" and isinstance(key, rsa.RSAPublicKey):
            if key.key_size < MIN_RSA:
                raise _refused(f"The signer's key has {key.key_size} bits.", "weak-algorithm")
            key.verify(value, signed, padding.PKCS1v15(), algorithm)
        elif kind == "ecdsa" and isinstance(key, ec.EllipticCurvePublicKey):
            half = len(value) // 2
            r, s = int.from_bytes(value[:half], "big"), int.from_bytes(value[half:], "big")
            key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(algorithm))
        else:
            raise _unsupported("its signer's key is of another kind than its signature")
    except InvalidSignature:
        raise _refused("The signature is wrong.", "signature-invalid") from None


def _certificates(signature: Node) -> tuple[x509.Certificate, ...]:
    found = [
        one
        for info in signature.children()
        if info.name == (DSIG, "KeyInfo")
        for data in info.children()
        if data.name == (DSIG, "X509Data")
        for one in data.children()
        if one.name == (DSIG, "X509Certificate")
    ]
    if len(found) > MAX_CERTIFICATES:
        raise _unsupported("it brings too many certificates")
    return tuple(load_certificate(_bytes(one), component=_COMPONENT) for one in found)


def _only(node: Node, local: str) -> Node:
    found = [child for child in node.children() if child.name == (DSIG, local)]
    if len(found) != 1:
        raise FormatError(
            f"RIM: its signature has {len(found)} {local}",
            code="rim-malformed",
            component=_COMPONENT,
        )
    return found[0]


def _bytes(node: Node) -> bytes:
    try:
        return base64.b64decode("".join(node.text().split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(
            "RIM: its signature holds no base64", code="rim-malformed", component=_COMPONENT
        ) from error


def _algorithm(node: Node, known: Mapping[str, T]) -> T:
    name = node.attributes.get("Algorithm", "")
    if any(node.children()):
        raise _unsupported("an algorithm with parameters")
    found = known.get(name)
    if found is None:
        raise _refused(f"The signature relies on {name[:80]!r}.", "weak-algorithm")
    return found


def _method(node: Node) -> Method:
    if any(node.children()):
        raise _unsupported("a canonical form with parameters")
    return _known(node.attributes.get("Algorithm", ""))


def _known(name: str) -> Method:
    try:
        return Method(name)
    except ValueError:
        raise _unsupported(f"the canonical form {name[:80]!r}") from None


def _unsupported(what: str) -> SignatureError:
    return SignatureError(
        f"The signature in the document is not one that is checked here: {what}.",
        code="signature-unsupported",
        component=_COMPONENT,
        remedy="Check it with its maker's tool, then sign the file with a key that may sign "
        "references (detached CMS).",
    )


def _refused(reason: str, code: str) -> SignatureError:
    return SignatureError(reason, code=code, component=_COMPONENT)
