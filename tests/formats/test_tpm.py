"""TPM structures: a real quote verifies, relabelled and forged ones do not, and keys are judged."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import AppraisalError, CasemateError, FormatError, SignatureError, TpmError
from casemate.formats import tpm
from casemate.formats.tpm.public import AK_ATTRIBUTES, EccKey, RsaKey
from casemate.testing.faketpm import FakeTpm
from casemate.testing.softkeys import SoftEk, SoftKey

NONCE = bytes(range(20))
ENTROPY = bytes(range(tpm.ENTROPY_SIZE))


@functools.cache
def rsa_key(bits: int = 2048, exponent: int = 65537) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(exponent, bits)


@functools.cache
def ak() -> SoftKey:
    return SoftKey()


@functools.cache
def quoted() -> tuple[bytes, tpm.Signature]:
    return FakeTpm().quote(NONCE, {"sha256": (0, 7, 12), "sha384": (17,)}, ak())


def _values() -> dict[str, dict[int, bytes]]:
    values = FakeTpm().values()
    return {"sha256": {p: values["sha256"][p] for p in (0, 7, 12)},
            "sha384": {17: values["sha384"][17]}}  # fmt: skip


def _code(error: pytest.ExceptionInfo[CasemateError]) -> str:
    return error.value.code


def _keylime(corpus: Path, name: str) -> bytes:
    return (corpus / "quotes" / "keylime" / name).read_bytes()


def test_the_keylime_quote_verifies(corpus: Path) -> None:
    public = tpm.parse_public(tpm.untpm2b(_keylime(corpus, "ak.pub")))
    data = _keylime(corpus, "quote.out")
    signature = tpm.parse_signature(_keylime(corpus, "quotesig.out"))
    tpm.check_attestation_key(public)
    tpm.verify_quote_signature(public, data, signature)
    attest = tpm.parse_attest(data)
    tpm.check_nonce(attest, _keylime(corpus, "rand.out"))
    values = tpm.parse_pcrs_blob(_keylime(corpus, "quotepcr.out"))
    assert set(values["sha256"]) == {15, 16, 22}
    tpm.check_pcr_values(attest.quoted(), values, signature.hash)


def test_keylime_keys_have_their_stated_names_and_numbers(corpus: Path) -> None:
    for stem in ("ak", "ek"):
        raw = tpm.untpm2b(_keylime(corpus, f"{stem}.pub"))
        public = tpm.parse_public(raw)
        assert tpm.write_public(public) == raw
        pem = serialization.load_pem_public_key(_keylime(corpus, f"{stem}pub.pem"))
        assert public.crypto_key() == pem
    assert tpm.parse_public(tpm.untpm2b(_keylime(corpus, "ak.pub"))).name() == _keylime(
        corpus, "ak.name"
    )


def test_the_keylime_quote_fails_with_any_byte_changed(corpus: Path) -> None:
    public = tpm.parse_public(tpm.untpm2b(_keylime(corpus, "ak.pub")))
    data = _keylime(corpus, "quote.out")
    signature = tpm.parse_signature(_keylime(corpus, "quotesig.out"))
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(SignatureError):
            tpm.verify_quote_signature(public, bytes(changed), signature)


@pytest.mark.parametrize(
    "key",
    [
        SoftKey(rsa_key()),
        SoftKey(rsa_key(), scheme="rsapss"),
        SoftKey(),
        SoftKey(ec.generate_private_key(ec.SECP384R1()), hash_name="sha384"),
    ],
    ids=["rsassa", "rsapss", "p256", "p384"],
)
def test_every_kind_of_key_quotes_and_verifies(key: SoftKey) -> None:
    data, signature = FakeTpm().quote(NONCE, {"sha256": (0,)}, key)
    again = tpm.parse_signature(tpm.write_signature(signature))
    public = tpm.parse_public(tpm.write_public(key.public))
    assert (again, public) == (signature, key.public)
    tpm.check_attestation_key(public)
    tpm.verify_quote_signature(public, data, again)
    with pytest.raises(SignatureError):
        tpm.verify_quote_signature(public, data + b"\0", again)


def test_an_attestation_comes_back_byte_for_byte() -> None:
    data, _ = quoted()
    assert tpm.write_attest(tpm.parse_attest(data)) == data


def test_a_quote_cut_anywhere_or_with_something_behind_it() -> None:
    data, signature = quoted()
    raw = tpm.write_signature(signature)
    public = tpm.write_public(ak().public)
    for size in range(len(data)):
        with pytest.raises(FormatError):
            tpm.parse_attest(data[:size])
    for size in range(len(raw)):
        with pytest.raises(FormatError):
            tpm.parse_signature(raw[:size])
    for size in range(len(public)):
        with pytest.raises(FormatError):
            tpm.parse_public(public[:size])
    with pytest.raises(FormatError):
        tpm.parse_attest(data + b"\0")
    with pytest.raises(FormatError):
        tpm.parse_signature(raw + b"\0")
    with pytest.raises(FormatError):
        tpm.parse_public(public + b"\0")


def test_data_that_the_tpm_did_not_make() -> None:
    data, _ = quoted()
    with pytest.raises(FormatError) as caught:
        tpm.parse_attest(b"\xff\x54\x43\x48" + data[4:])
    assert _code(caught) == "not-tpm-generated"


@pytest.mark.parametrize("number", [0x8014, 0x8015, 0x8016, 0x8017, 0x8019, 0x801A, 0x801C])
def test_another_attestation_offered_as_a_quote(number: int) -> None:
    data, _ = quoted()
    attest = tpm.parse_attest(data[:4] + struct.pack(">H", number) + data[6:])
    with pytest.raises(AppraisalError) as caught:
        attest.quoted()
    assert _code(caught) == "wrong-attest-type"


def test_an_attestation_of_no_known_type() -> None:
    data, _ = quoted()
    with pytest.raises(FormatError) as caught:
        tpm.parse_attest(data[:4] + b"\x80\x99" + data[6:])
    assert _code(caught) == "wrong-attest-type"


def _selecting(raw: bytes) -> bytes:
    data, _ = quoted()
    attest = tpm.parse_attest(data)
    return tpm.write_attest(dataclasses.replace(attest, attested=raw))


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\1\0\x0b\xff" + bytes(255),
        b"\0\0\0\1\0\x0b\0",
        b"\0\0\0\2" + b"\0\x0b\3\1\0\0" * 2 + b"\0\0",
        b"\0\0\0\0" + b"\0\x41" + bytes(65),
    ],
    ids=["count", "bitmap", "empty bitmap", "bank twice", "digest"],
)
def test_impossible_selections(raw: bytes) -> None:
    with pytest.raises(FormatError):
        tpm.parse_attest(_selecting(raw))


def test_a_quote_that_answers_another_challenge() -> None:
    attest = tpm.parse_attest(quoted()[0])
    tpm.check_nonce(attest, NONCE)
    for nonce in (bytes(20), NONCE[:-1], NONCE.hex().encode(), b""):
        with pytest.raises(AppraisalError) as caught:
            tpm.check_nonce(attest, nonce)
        assert _code(caught) == "stale-nonce"
    with pytest.raises(AppraisalError):
        tpm.check_nonce(dataclasses.replace(attest, extra_data=b""), b"")


def _refused_values(values: dict[str, dict[int, bytes]], code: str) -> None:
    quote = tpm.parse_attest(quoted()[0]).quoted()
    with pytest.raises(AppraisalError) as caught:
        tpm.check_pcr_values(quote, values, "sha256")
    assert _code(caught) == code


def test_pcr_values_that_are_not_those_quoted() -> None:
    quote = tpm.parse_attest(quoted()[0]).quoted()
    tpm.check_pcr_values(quote, _values(), "sha256")
    good = _values()
    _refused_values({"sha256": good["sha256"]}, "missing-pcr")
    _refused_values(good | {"sha256": good["sha256"] | {23: bytes(32)}}, "unquoted-pcr")
    _refused_values(good | {"md5": {0: bytes(16)}}, "unquoted-pcr")
    _refused_values(good | {"sha384": {17: bytes(20)}}, "bank-mismatch")
    _refused_values(good | {"sha384": {17: bytes(48)}}, "pcr-digest")
    swapped = good["sha256"] | {0: good["sha256"][7], 7: b"\1" * 32}
    _refused_values(good | {"sha256": swapped}, "pcr-digest")


def test_a_pcr_digest_made_with_another_hash_than_the_signature() -> None:
    quote = tpm.parse_attest(quoted()[0]).quoted()
    with pytest.raises(AppraisalError) as caught:
        tpm.check_pcr_values(quote, _values(), "sha384")
    assert _code(caught) == "pcr-digest"


def test_a_quote_signed_by_another_key() -> None:
    data, signature = quoted()
    with pytest.raises(SignatureError):
        tpm.verify_quote_signature(SoftKey().public, data, signature)


@pytest.mark.parametrize(
    "values",
    [
        (b"", b"\1"),
        (b"\0" * 32, b"\1" * 32),
        (b"\1" * 32, b"\0"),
        (b"\xff" * 32, b"\xff" * 32),
        (b"\0" * 168 + b"\1" * 32, b"\1" * 32),
    ],
    ids=["empty", "r zero", "s zero", "above the order", "200 bytes"],
)
def test_ecdsa_numbers_out_of_range(values: tuple[bytes, bytes]) -> None:
    with pytest.raises(SignatureError) as caught:
        tpm.verify_quote_signature(
            ak().public, quoted()[0], tpm.Signature("ecdsa", "sha256", values)
        )
    assert _code(caught) == "signature-invalid"


def test_a_signature_of_a_kind_that_is_not_the_keys() -> None:
    data, signature = quoted()
    rsa_signed = SoftKey(rsa_key()).sign(data)
    cases = [
        (ak().public, rsa_signed),
        (SoftKey(rsa_key()).public, signature),
        (SoftKey(rsa_key(), scheme="rsapss").public, rsa_signed),
        (dataclasses.replace(ak().public, scheme=tpm.Scheme("ecdsa", "sha384")), signature),
    ]
    for public, wrong in cases:
        with pytest.raises(SignatureError) as caught:
            tpm.verify_quote_signature(public, data, wrong)
        assert _code(caught) == "alg-mismatch"


def test_a_sha1_signature() -> None:
    data, signature = quoted()
    with pytest.raises(SignatureError) as caught:
        tpm.verify_quote_signature(ak().public, data, dataclasses.replace(signature, hash="sha1"))
    assert _code(caught) == "weak-alg"


def test_an_rsa_signature_shorter_than_its_key() -> None:
    key = SoftKey(rsa_key())
    signature = tpm.Signature("rsassa", "sha256", (b"\1" * 255,))
    with pytest.raises(SignatureError):
        tpm.verify_quote_signature(key.public, b"", signature)


@pytest.mark.parametrize("lacking", list(AK_ATTRIBUTES))
def test_an_attestation_key_that_lacks_an_attribute(lacking: tpm.Attributes) -> None:
    public = dataclasses.replace(ak().public, attributes=AK_ATTRIBUTES & ~lacking)
    with pytest.raises(AppraisalError) as caught:
        tpm.check_attestation_key(public)
    assert _code(caught) == "ak-attributes"


def _unfit(code: str, public: tpm.Public) -> None:
    with pytest.raises(AppraisalError) as caught:
        tpm.check_attestation_key(tpm.parse_public(tpm.write_public(public)))
    assert _code(caught) == code


def test_attestation_keys_that_prove_nothing() -> None:
    public = ak().public
    both = AK_ATTRIBUTES | tpm.Attributes.DECRYPT
    _unfit("ak-attributes", dataclasses.replace(public, attributes=both))
    _unfit("ak-attributes", dataclasses.replace(public, scheme=None))
    _unfit("ak-attributes", dataclasses.replace(public, scheme=tpm.Scheme("oaep", "sha256")))
    _unfit("weak-alg", dataclasses.replace(public, scheme=tpm.Scheme("ecdsa", "sha1")))
    _unfit("weak-alg", dataclasses.replace(public, name_algorithm="sha1"))
    _unfit("weak-key", dataclasses.replace(public, key=EccKey("p192", None, bytes(24), bytes(24))))
    _unfit("weak-key", SoftKey(rsa_key(1024)).public)
    _unfit("weak-key", SoftKey(rsa_key(2048, 3)).public)


def test_numbers_that_make_no_key() -> None:
    rsa_public = SoftKey(rsa_key()).public
    for public in (
        dataclasses.replace(ak().public, key=EccKey("p256", None, b"\1" * 32, b"\1" * 32)),
        dataclasses.replace(rsa_public, key=RsaKey(16, 0, b"\0\0")),
    ):
        with pytest.raises(FormatError):
            public.crypto_key()


def test_a_modulus_that_is_not_as_long_as_stated() -> None:
    public = dataclasses.replace(SoftKey(rsa_key()).public, key=RsaKey(2048, 0, b"\1" * 255))
    with pytest.raises(FormatError):
        tpm.parse_public(tpm.write_public(public))


@given(st.binary(max_size=200))
def test_whatever_the_bytes_only_our_error(data: bytes) -> None:
    attest, signature = quoted()
    prefixes = (b"", attest[:6], attest[:80], tpm.write_signature(signature)[:6],
                tpm.write_public(ak().public)[:14])  # fmt: skip
    for prefix in prefixes:
        for parse in (tpm.parse_attest, tpm.parse_signature, tpm.parse_public, tpm.untpm2b,
                      tpm.parse_pcrs_blob):  # fmt: skip
            try:
                parse(prefix + data)
            except CasemateError:
                continue


@given(st.data())
def test_any_byte_changed_is_refused_or_makes_another_key(draw: st.DataObject) -> None:
    data, signature = quoted()
    parts = [data, tpm.write_signature(signature), tpm.write_public(ak().public)]
    which = draw.draw(st.integers(0, 2))
    position = draw.draw(st.integers(0, len(parts[which]) - 1))
    changed = bytearray(parts[which])
    changed[position] ^= draw.draw(st.integers(1, 255))
    parts[which] = bytes(changed)
    try:
        public = tpm.parse_public(parts[2])
        tpm.verify_quote_signature(public, parts[0], tpm.parse_signature(parts[1]))
    except CasemateError:
        return
    assert public.name() != ak().public.name(), "only another key may get through"


def _blob(selections: bytes, count: int, digests: bytes, lists: int = 1) -> bytes:
    return (
        struct.pack("<I", count) + selections.ljust(128, b"\0") + struct.pack("<I", lists) + digests
    )


@pytest.mark.parametrize(
    "blob",
    [
        _blob(b"", 17, b""),
        _blob(b"\x0b\0\3\1\0\0\0\0", 1, b"", 0xFFFFFFFF),
        _blob(b"\x0b\0\3\1\0\0\0\0", 1, b"", 0),
        _blob(b"\x0b\0\3\1\0\0\0\0", 1, struct.pack("<I", 9) + bytes(528)),
        _blob(b"\x0b\0\3\1\0\0\0\0", 1, struct.pack("<IH", 1, 65) + bytes(526)),
        _blob(b"\x0b\0\3\1\0\0\0\0", 1, struct.pack("<IH", 1, 31) + bytes(526)),
        _blob(b"\x0b\0\5\1\0\0\0\0", 1, struct.pack("<IH", 1, 32) + bytes(526)),
        _blob(b"\x0b\0\3\1\0\0\0\0" * 2, 2, struct.pack("<I", 2) + bytes(528)),
    ],
)
def test_a_pcr_blob_whose_parts_do_not_fit(blob: bytes) -> None:
    with pytest.raises(FormatError):
        tpm.parse_pcrs_blob(blob)


EKS: dict[str, Callable[[], SoftEk]] = {
    "rsa2048": lambda: SoftEk(rsa_key()),
    "p256": SoftEk,
    "p384": lambda: SoftEk(ec.generate_private_key(ec.SECP384R1()), hash_name="sha384"),
}


@pytest.mark.parametrize("kind", EKS)
def test_only_the_right_keys_open_a_credential(kind: str) -> None:
    ek = EKS[kind]()
    name = ak().public.name()
    credential = tpm.make_credential(ek.public, name, b"secret", entropy=ENTROPY)
    assert ek.activate(credential, name) == b"secret"
    with pytest.raises(TpmError):
        ek.activate(credential, SoftKey().public.name())
    with pytest.raises(TpmError):
        SoftEk().activate(
            tpm.make_credential(SoftEk().public, name, b"secret", entropy=ENTROPY), name
        )
    other_end = bytes([credential.blob[-1] ^ 1])
    changed = dataclasses.replace(credential, blob=credential.blob[:-1] + other_end)
    with pytest.raises(TpmError):
        ek.activate(changed, name)


def test_an_ecc_credential_depends_on_its_entropy_alone() -> None:
    ek = SoftEk()
    one, two = (tpm.make_credential(ek.public, b"n", b"s", entropy=ENTROPY) for _ in range(2))
    other = tpm.make_credential(ek.public, b"n", b"s", entropy=bytes(tpm.ENTROPY_SIZE))
    assert one == two != other


@pytest.mark.parametrize(
    ("secret", "entropy"), [(b"", ENTROPY), (bytes(33), ENTROPY), (b"s", ENTROPY[:-1])]
)
def test_a_credential_with_a_secret_or_entropy_of_the_wrong_size(
    secret: bytes, entropy: bytes
) -> None:
    with pytest.raises(FormatError):
        tpm.make_credential(SoftEk().public, b"n", secret, entropy=entropy)


def test_a_credential_for_a_key_that_cannot_receive_it() -> None:
    public = SoftEk().public
    for unusable in (
        ak().public,
        dataclasses.replace(public, symmetric=None),
        dataclasses.replace(public, symmetric=tpm.Symmetric("aes", 128, "ecb")),
        dataclasses.replace(public, symmetric=tpm.Symmetric("aes", 17, "cfb")),
        dataclasses.replace(public, name_algorithm="sm3_256"),
        dataclasses.replace(public, attributes=AK_ATTRIBUTES),
        SoftEk(rsa_key(1024)).public,
    ):
        with pytest.raises(AppraisalError):
            tpm.make_credential(unusable, b"n", b"s", entropy=ENTROPY)


@pytest.mark.host
@pytest.mark.parametrize("kind", EKS)
def test_the_tss_makes_credentials_that_our_derivation_opens(kind: str) -> None:
    tss = pytest.importorskip("tpm2_pytss")
    utils = pytest.importorskip("tpm2_pytss.utils")
    ek = EKS[kind]()
    raw = tpm.tpm2b(tpm.write_public(ek.public))
    public, _ = tss.TPM2B_PUBLIC.unmarshal(raw)
    name = ak().public.name()
    blob, secret = utils.make_credential(public, b"secret", tss.TPM2B_NAME(name))
    made = tpm.Credential(bytes(blob), bytes(secret))
    assert ek.activate(made, name) == b"secret"


def test_names_hash_the_public_area() -> None:
    public = ak().public
    expected = b"\0\x0b" + hashlib.sha256(tpm.write_public(public)).digest()
    assert public.name() == expected
