"""The single steps of verifying a CMS signature, for ``formats.cms``."""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from casemate.errors import FormatError, SignatureError
from casemate.formats import cms_asn1 as shapes
from casemate.formats.certificates import load_certificate

MAX_SIGNATURE: Final = 1 << 20
"""Bytes of a signature file; real ones are about 4 KiB, long chains included."""
MAX_CERTIFICATES: Final = 16
"""Certificates inside one signature."""
MAX_ATTRIBUTES: Final = 32
"""Signed attributes; real signers write three or four."""
MAX_SALT: Final = 1_024
"""Bytes of an RSA-PSS salt; it cannot be longer than the key."""
MIN_RSA_BITS: Final = 2_048
"""Bits of the smallest RSA key that may sign."""
HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}

_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_PEM: Final = re.compile(
    rb"-----BEGIN (PKCS7|CMS)-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END \1-----\s*", re.ASCII
)
_UTC_TIME_TAG: Final = b"\x17"
_SHA1_SIZE: Final = 20


class Check:
    """The steps of a verification; all errors carry the same component."""

    def __init__(self, component: str) -> None:
        self._component = component

    def error(self, code: str, reason: str) -> SignatureError:
        """Return a refusal with this code."""
        return SignatureError(
            f"The signature is refused. {reason}", code=code, component=self._component
        )

    def signed_data(self, signature: bytes) -> shapes.SignedData:
        """Decode PEM or DER down to a detached SignedData."""
        if len(signature) > MAX_SIGNATURE:
            raise self.error("signature-malformed", f"It is longer than {MAX_SIGNATURE} bytes.")
        if signature.startswith(b"-----"):
            pem = _PEM.fullmatch(signature)
            if pem is None:
                raise self.error("signature-malformed", "It is not one whole PEM block.")
            text = pem[2].replace(b"\r", b"").replace(b"\n", b"")
            try:
                signature = binascii.a2b_base64(text, strict_mode=True)
            except binascii.Error as error:
                raise self.error("signature-malformed", f"Its base64 is wrong: {error}.") from error
        try:
            info = asn1.decode_der(shapes.ContentInfo, signature)
        except ValueError as error:
            raise self.error(
                "signature-malformed", f"It is not DER-encoded PKCS #7 signed data ({error})."
            ) from error
        if info.oid != shapes.SIGNED_DATA:
            raise self.error("signature-malformed", "It is CMS, but not signed data.")
        if info.content.content.content is not None:
            raise self.error("signature-malformed", "It carries content of its own: not detached.")
        return info.content

    def digest_name(self, algorithm: shapes.DigestAlgorithm) -> str:
        """Return the digest's name; weak and unknown ones raise."""
        name = shapes.DIGESTS.get(algorithm.oid)
        if name is None:
            raise self._unusable(algorithm.oid)
        return name

    def certificates(self, data: shapes.SignedData) -> tuple[x509.Certificate, ...]:
        """Return the embedded certificates."""
        elements = data.certificates or []
        if len(elements) > MAX_CERTIFICATES:
            raise self.error(
                "signature-malformed", f"It embeds more than {MAX_CERTIFICATES} certificates."
            )
        try:
            return tuple(load_certificate(asn1.encode_der(element)) for element in elements)
        except FormatError as error:
            raise self.error("signature-malformed", error.reason) from error

    def find_signer(
        self, signer: shapes.SignerInfo, candidates: Sequence[x509.Certificate]
    ) -> x509.Certificate:
        """Return the one candidate that the signer info names."""
        sid = signer.sid
        try:
            if isinstance(sid, bytes):
                found = {one for one in candidates if _key_identifier(one) == sid}
            else:
                issuer = asn1.encode_der(sid.issuer)
                found = {
                    one
                    for one in candidates
                    if one.serial_number == sid.serial and one.issuer.public_bytes() == issuer
                }
        except ValueError as error:
            raise self.error(
                "signature-malformed", f"It embeds a certificate that cannot be read ({error})."
            ) from error
        if not found:
            raise self.error("signer-missing", "The certificate of its signer is not at hand.")
        if len(found) > 1:
            raise self.error("signer-ambiguous", "Several certificates claim to be its signer's.")
        return found.pop()

    def strength(self, key: object) -> None:
        """Raise unless the key is strong enough and of a kind we know."""
        if isinstance(key, rsa.RSAPublicKey):
            if key.key_size < MIN_RSA_BITS:
                raise self.error("weak-algorithm", f"Its RSA key has only {key.key_size} bits.")
        elif not isinstance(key, ec.EllipticCurvePublicKey):
            raise self.error("algorithm-unsupported", "Its key is neither RSA nor elliptic curve.")
        elif not isinstance(key.curve, _CURVES):
            raise self.error(
                "algorithm-unsupported",
                f"Its key is on the curve {key.curve.name}, not a NIST one.",
            )

    def signature(
        self,
        certificate: x509.Certificate,
        signer: shapes.SignerInfo,
        digest: str,
        message: bytes,
    ) -> None:
        """Check the signature value over ``message``."""
        algorithm = signer.signature_algorithm
        try:
            key = certificate.public_key()
        except (ValueError, UnsupportedAlgorithm) as error:
            raise self.error(
                "algorithm-unsupported", "The key of its signer cannot be used."
            ) from error
        self.strength(key)
        try:
            if isinstance(key, rsa.RSAPublicKey):
                scheme = self._rsa_padding(algorithm, digest)
                key.verify(signer.signature, message, scheme, HASHES[digest])
            elif isinstance(key, ec.EllipticCurvePublicKey):
                self._same_digest(shapes.ECDSA_WITH, algorithm, digest)
                key.verify(signer.signature, message, ec.ECDSA(HASHES[digest]))
        except (InvalidSignature, ValueError) as error:
            raise self.error(
                "signature-invalid", "It was not made with the key of the named signer."
            ) from error

    def attributes(
        self,
        attributes: Sequence[shapes.Attribute],
        digest: str,
        content: bytes | memoryview,
        kind: x509.ObjectIdentifier = shapes.DATA,
    ) -> datetime | None:
        """Check the (already authentic) attributes against the content; return the signing time."""
        if len(attributes) > MAX_ATTRIBUTES:
            raise self.error("signature-malformed", f"It has over {MAX_ATTRIBUTES} attributes.")
        values: dict[x509.ObjectIdentifier, asn1.TLV] = {}
        for attribute in attributes:
            if attribute.oid not in (
                shapes.CONTENT_TYPE,
                shapes.MESSAGE_DIGEST,
                shapes.SIGNING_TIME,
            ):
                continue
            items = attribute.values.as_list()
            if len(items) != 1 or attribute.oid in values:
                raise self.error("signature-malformed", "One of its attributes is not single.")
            values[attribute.oid] = items[0]
        try:
            named = values[shapes.CONTENT_TYPE].parse(x509.ObjectIdentifier)
            announced = values[shapes.MESSAGE_DIGEST].parse(bytes)
            stamp = values.get(shapes.SIGNING_TIME)
            moment = None if stamp is None else _time(stamp)
        except (KeyError, ValueError) as error:
            raise self.error(
                "signature-malformed", "Its signed attributes are incomplete or unreadable."
            ) from error
        if named != kind:
            raise self.error("signature-malformed", "It was made for another type of content.")
        if not hmac.compare_digest(announced, hashlib.new(digest, content).digest()):
            raise self.error(
                "content-changed", "It is genuine, but over other content: this was edited later."
            )
        return moment

    def _rsa_padding(
        self, algorithm: shapes.SignatureAlgorithm, digest: str
    ) -> padding.PKCS1v15 | padding.PSS:
        if algorithm.oid == shapes.RSA_ENCRYPTION:
            return padding.PKCS1v15()
        if algorithm.oid != shapes.RSASSA_PSS:
            self._same_digest(shapes.RSA_WITH, algorithm, digest)
            return padding.PKCS1v15()
        parameters = algorithm.parameters
        if (
            not isinstance(parameters, shapes.PssParameters)
            or parameters.digest is None
            or parameters.mask is None
            or parameters.mask.oid != shapes.MGF1
        ):
            raise self.error("weak-algorithm", "Its RSA-PSS parameters mean SHA-1.")
        chosen = self.digest_name(parameters.digest)
        masked = self.digest_name(parameters.mask.digest)
        length = _SHA1_SIZE if parameters.salt_length is None else parameters.salt_length
        if {chosen, masked} != {digest} or not 0 <= length <= MAX_SALT:
            raise self.error("signature-malformed", "Its RSA-PSS parameters do not fit together.")
        return padding.PSS(padding.MGF1(HASHES[digest]), length)

    def _same_digest(
        self,
        known: dict[x509.ObjectIdentifier, str],
        algorithm: shapes.SignatureAlgorithm,
        digest: str,
    ) -> None:
        name = known.get(algorithm.oid)
        if name is None:
            raise self._unusable(algorithm.oid)
        if name != digest:
            raise self.error("signature-malformed", f"It mixes {name} and {digest}.")

    def _unusable(self, oid: x509.ObjectIdentifier) -> SignatureError:
        weak = shapes.WEAK.get(oid)
        if weak is not None:
            return self.error("weak-algorithm", f"It uses {weak}, which can be forged.")
        return self.error("algorithm-unsupported", f"It uses the algorithm {oid.dotted_string}.")


def _key_identifier(certificate: x509.Certificate) -> bytes | None:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    return extension.value.digest


def _time(stamp: asn1.TLV) -> datetime:
    kind = asn1.UTCTime if stamp.tag_bytes == _UTC_TIME_TAG else asn1.GeneralizedTime
    moment: datetime = stamp.parse(kind).as_datetime()
    return moment.replace(tzinfo=UTC)
