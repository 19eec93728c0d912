"""References from and for others: CoRIM and TCG RIM, good ones and traps."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import CasemateError, DigestError, FormatError, SignatureError
from casemate.formats import tagged
from casemate.formats.algorithms import ALGORITHMS, digest
from casemate.formats.cbor import decode_cbor, encode_cbor
from casemate.formats.corim import (
    CONTENT_TYPE,
    Comid,
    Corim,
    Environment,
    Measurement,
    ReferenceTriple,
    parse_corim,
    write_corim,
)
from casemate.formats.cose import Sign1, parse_sign1, sign1, verify_sign1
from casemate.formats.eventlog import Event, EventLog, replay, write
from casemate.formats.eventtypes import EV_EVENT_TAG
from casemate.formats.manifest import ComponentRef, ExpectedEvent, Manifest
from casemate.formats.rim import check_support, parse_rim, support_log
from casemate.policy.exchange import (
    PROFILE,
    accept_corim,
    accept_rim,
    compare_with_corim,
    corim_from_manifest,
)
from casemate.policy.trust import Anchor, Level, TrustStore
from casemate.testing.pki import NOW, shared_pki

PKI = shared_pki()
TRUST = TrustStore(
    tuple(
        Anchor(PKI.issuers[level].certificate, frozenset({Level(level)})) for level in PKI.issuers
    )
)
VALUE = hashlib.sha256(b"x").digest()
GOOD = Corim(
    "corim 1",
    (
        Comid(
            "comid 1",
            3,
            (
                ReferenceTriple(
                    Environment(vendor="ACME", model="Roadrunner", layer=0),
                    (
                        Measurement("b.b00", (("sha256", VALUE),), "boot", "1.0", 5),
                        Measurement(
                            "pcrs",
                            registers={7: (("sha256", VALUE),), "x": (("sha384", bytes(48)),)},
                        ),
                        Measurement("raw", raw=b"\1\2"),
                    ),
                ),
            ),
        ),
    ),
    "profile",
    NOW - timedelta(days=1),
    NOW + timedelta(days=1),
)


def _der(level: str = "certified") -> bytes:
    return PKI.signers[level].certificate.public_bytes(serialization.Encoding.DER)


def _sign(payload: bytes, level: str = "certified", content_type: str = CONTENT_TYPE) -> bytes:
    key = PKI.signers[level].key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return sign1(payload, key, content_type=content_type, chain=(_der(level),))


def _raw(change: dict[Any, Any] | None = None, **triple: Any) -> bytes:
    """A CoRIM by hand; ``env`` and ``meas`` replace the parts of its one triple."""
    env = triple.get("env", {0: {1: "ACME"}})
    meas = triple.get("meas", [{0: "key", 1: {2: [[1, VALUE]]}}])
    comid = {1: {0: "id"}, 4: {0: [[env, meas]]}}
    body = {0: "c", 1: [cbor2.CBORTag(506, encode_cbor(comid))]} | (change or {})
    return encode_cbor(cbor2.CBORTag(501, body))


def test_what_is_written_is_read_again() -> None:
    assert parse_corim(write_corim(GOOD)) == GOOD
    assert parse_corim(_raw()).comids[0].references[0].measurements[0].digests == (
        ("sha256", VALUE),
    )


def test_identifiers_of_every_kind_are_told_apart() -> None:
    uuid = bytes(range(16))
    for value, text in (
        ("name", "name"),
        (uuid, "uuid:00010203-0405-0607-0809-0a0b0c0d0e0f"),
        (cbor2.CBORTag(37, uuid), "uuid:00010203-0405-0607-0809-0a0b0c0d0e0f"),
        (cbor2.CBORTag(111, bytes.fromhex("2b0601")), "oid:1.3.6.1"),
        (cbor2.CBORTag(550, b"\1\2"), "ueid:0102"),
        (cbor2.CBORTag(560, b"\1\2"), "bytes:0102"),
        (7, "7"),
    ):
        read = parse_corim(_raw(env={0: {0: value}}))
        assert read.comids[0].references[0].environment.class_id == text


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (_raw(env={}), "reference-incomplete"),
        (_raw(env={0: {}}), "reference-incomplete"),
        (_raw(meas=[{1: {2: [[1, VALUE]]}}]), "reference-incomplete"),
        (_raw(meas=[{0: "key", 1: {}}]), "reference-incomplete"),
        (_raw(meas=[{0: "key", 1: {11: "name"}}]), "reference-incomplete"),
        (_raw(meas=[{0: "key", 1: {2: []}}]), "reference-empty"),
        (_raw(meas=[{0: "key", 1: {14: {7: []}}}]), "reference-empty"),
        (_raw(meas=[{0: "key", 1: {2: [["sha-1", bytes(20)]]}}]), "reference-weak"),
        (_raw(meas=[{0: "key", 1: {2: [[6, bytes(4)]]}}]), "reference-weak"),
        (_raw(meas=[{0: "key", 1: {2: [[1, bytes(31)]]}}]), "corim-malformed"),
        (_raw(meas=[{0: "key", 1: {2: [[1]]}}]), "corim-malformed"),
        (_raw(meas=[]), "corim-malformed"),
        (_raw({1: []}), "corim-malformed"),
        (_raw({1: ["x"]}), "corim-malformed"),
        (_raw({0: None}), "corim-malformed"),
        (_raw({4: {0: 1 << 63}}), "corim-malformed"),
        (encode_cbor([1]), "corim-malformed"),
        (b"\xff", "cbor-malformed"),
        (b"\x81" * 1000, "cbor-malformed"),
        (_raw() + b"\0", "cbor-malformed"),
        (b"\xa2\0\0\0\0", "cbor-malformed"),
        (b"\x9f\xff", "cbor-malformed"),
    ],
)
def test_references_that_match_too_much_or_nothing_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_corim(data)
    assert caught.value.code == code


@given(st.binary(max_size=120))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for reader in (parse_corim, parse_sign1, parse_rim):
        with pytest.raises(CasemateError):
            reader(data)


@given(st.data())
def test_any_damage_is_read_or_refused(data: st.DataObject) -> None:
    made = bytearray(data.draw(st.sampled_from((SIGNED, write_corim(GOOD), RIM))))
    for _ in range(data.draw(st.integers(1, 4))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    for reader in (
        parse_corim,
        parse_rim,
        lambda raw: parse_sign1(raw).certificates(),
        lambda raw: accept_corim(raw, TRUST, NOW),
    ):
        try:
            reader(bytes(made))
        except CasemateError:
            continue


def test_signed_manifests_count_and_their_signer_is_named() -> None:
    corim, subject = accept_corim(SIGNED, TRUST, NOW)
    assert corim == FIT
    assert "certified" in subject


_TRIPLE = GOOD.comids[0].references[0]
FIT = replace(
    GOOD,
    profile=PROFILE,
    comids=(
        replace(
            GOOD.comids[0],
            references=(
                replace(
                    _TRIPLE,
                    measurements=(
                        _TRIPLE.measurements[0],
                        Measurement("pcrs", registers={7: (("sha256", VALUE),)}),
                    ),
                ),
            ),
        ),
    ),
)
"""What says something definite about hosts of one kind."""
SIGNED = _sign(write_corim(FIT))


def _code(data: bytes, trust: TrustStore = TRUST, now: datetime = NOW) -> str:
    with pytest.raises((FormatError, SignatureError)) as caught:
        accept_corim(data, trust, now)
    return caught.value.code


def test_unsigned_forged_expired_and_empty_manifests_are_refused() -> None:
    assert _code(write_corim(FIT)) == "signature-missing"
    assert _code(_sign(write_corim(FIT), "community")) == "signer-untrusted"
    assert _code(SIGNED, TrustStore()) == "signer-untrusted"
    assert _code(SIGNED, now=NOW + timedelta(days=2)) == "reference-expired"
    assert _code(_sign(write_corim(FIT), content_type="text/plain")) == "corim-malformed"
    nothing = replace(FIT, comids=(replace(FIT.comids[0], references=()),))
    assert _code(_sign(write_corim(nothing))) in {"reference-empty", "corim-malformed"}
    parts = decode_cbor(SIGNED, what="x").value
    other = [parts[0], {}, write_corim(replace(FIT, id="other")), parts[3]]
    assert _code(encode_cbor(cbor2.CBORTag(18, other))) == "signature-invalid"
    unnamed = [b"", {}, parts[2], parts[3]]
    assert _code(encode_cbor(cbor2.CBORTag(18, unnamed))) == "corim-malformed"
    critical = encode_cbor({1: -7, 2: [99], 99: 1})
    refused = encode_cbor(cbor2.CBORTag(18, [critical, {}, parts[2], parts[3]]))
    with pytest.raises(FormatError):
        parse_sign1(refused)


def test_profiles_that_are_not_known_are_refused_whatever_they_are_written_as() -> None:
    assert accept_corim(_sign(_raw()), TRUST, NOW)[0].profile == ""
    assert accept_corim(_sign(_raw({3: PROFILE})), TRUST, NOW)[0].profile == PROFILE
    for profile in (
        "http://example.com/psa/iot/1",
        cbor2.CBORTag(32, "http://example.com/tpm"),
        cbor2.CBORTag(111, bytes.fromhex("6086480186f84d010f06")),
        bytes(16),
        7,
    ):
        assert _code(_sign(_raw({3: profile}))) == "reference-profile", profile
    for profile in (None, [], {}, 1.5, True):
        assert _code(_sign(_raw({3: profile}))) == "corim-malformed", profile


def test_tags_may_be_left_out_or_wrapped_and_mean_the_same() -> None:
    plain = parse_corim(_raw())
    bare = decode_cbor(_raw(), what="x").value
    wrapped = cbor2.CBORTag(500, cbor2.CBORTag(501, bare))
    for value in (bare, wrapped):
        assert parse_corim(encode_cbor(value)) == plain
        assert accept_corim(_sign(encode_cbor(value)), TRUST, NOW)[0] == plain
    # A reference value that is alone may stand without its list.
    alone = {1: {0: "id"}, 4: {0: [[{0: {1: "ACME"}}, {0: "key", 1: {2: [[1, VALUE]]}}]]}}
    tagged = [cbor2.CBORTag(506, encode_cbor(alone))]
    assert parse_corim(encode_cbor({0: "c", 1: tagged})) == plain
    # Tags of other kinds say nothing that is compared; one without a tag could be anything.
    assert parse_corim(encode_cbor({0: "c", 1: [*tagged, cbor2.CBORTag(505, b"\0")]})).others == 1
    for other in (encode_cbor(alone), alone, cbor2.CBORTag(506, alone)):
        assert _code(_sign(encode_cbor({0: "c", 1: [other]}))) == "corim-malformed"
    assert _code(_sign(encode_cbor(cbor2.CBORTag(502, bare)))) == "corim-malformed"


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ({0: {1: "ACME", 2: "A"}}, {0: {1: "ACME", 2: "A"}}, ""),
        ({0: {1: "ACME", 3: 0}}, {0: {1: "ACME", 3: 1}}, ""),
        ({0: {1: "ACME", 4: 0}}, {0: {1: "ACME", 4: 9}}, ""),
        ({0: {1: "ACME", 2: "A"}}, {0: {1: "ACME", 2: "B"}}, "reference-environments"),
        ({0: {1: "ACME"}}, {0: {0: bytes(16)}}, "reference-environments"),
        ({0: {1: "ACME"}, 1: b"1"}, {0: {1: "ACME"}, 1: b"2"}, "reference-environments"),
        ({0: {1: "ACME"}, 2: b"1"}, {0: {1: "ACME"}}, "reference-environments"),
    ],
)
def test_values_of_one_machine_are_never_taken_for_anothers(
    first: dict[int, Any], second: dict[int, Any], code: str
) -> None:
    values = [{0: "key", 1: {2: [[1, VALUE]]}}]
    one = {1: {0: "id"}, 4: {0: [[first, values], [second, values]]}}
    two = [{1: {0: f"id {n}"}, 4: {0: [[env, values]]}} for n, env in enumerate((first, second))]
    for comids in ([one], two):
        tags = [cbor2.CBORTag(506, encode_cbor(comid)) for comid in comids]
        data = _sign(encode_cbor({0: "c", 1: tags}))
        if code:
            assert _code(data) == code
        else:
            accept_corim(data, TRUST, NOW)


DIGEST = {2: [[1, VALUE]]}


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (DIGEST | {0: {0: "1.0"}, 1: 3, 11: "boot"}, ""),
        (DIGEST | {1: cbor2.CBORTag(553, 3), 4: cbor2.CBORTag(560, b"raw")}, ""),
        ({4: cbor2.CBORTag(560, b"raw")}, "reference-uncompared"),
        ({1: 3}, "reference-uncompared"),
        (DIGEST | {3: {0: True}}, "reference-uncompared"),
        (DIGEST | {4: cbor2.CBORTag(563, [b"raw", b"\xff\0\xff"])}, "reference-uncompared"),
        (DIGEST | {4: b"raw", 5: b"\xff\0\xff"}, "reference-uncompared"),
        (DIGEST | {13: [b"key"]}, "reference-uncompared"),
        (DIGEST | {99: 1}, "reference-uncompared"),
        ({14: {"PCR7": [[1, VALUE]]}}, "reference-uncompared"),
        (DIGEST | {4: cbor2.CBORTag(563, [b"raw"])}, "corim-malformed"),
        (DIGEST | {4: cbor2.CBORTag(563, b"raw")}, "reference-uncompared"),
        (DIGEST | {4: cbor2.CBORTag(563, ["raw", b""])}, "corim-malformed"),
    ],
)
def test_values_that_nobody_compares_are_not_passed_over(value: dict[int, Any], code: str) -> None:
    data = _sign(_raw(meas=[{0: "key", 1: DIGEST}, {0: "other", 1: value}]))
    if code:
        assert _code(data) == code
    else:
        accept_corim(data, TRUST, NOW)


def test_every_algorithm_of_cose_that_we_take() -> None:
    payload = b"payload"
    for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()):
        own = ec.generate_private_key(curve)
        verify_sign1(parse_sign1(sign1(payload, own, content_type="x")), own.public_key())
    head = encode_cbor({1: -37})
    signed = encode_cbor(["Signature1", head, b"", payload])
    rsa_key = rsa.generate_private_key(65537, 2048)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    value = rsa_key.sign(signed, pss, hashes.SHA256())
    message = Sign1(head, {1: -37}, {}, payload, value)
    verify_sign1(message, rsa_key.public_key())
    edwards = ed25519.Ed25519PrivateKey.generate()
    head = encode_cbor({1: -8})
    value = edwards.sign(encode_cbor(["Signature1", head, b"", payload]))
    verify_sign1(Sign1(head, {1: -8}, {}, payload, value), edwards.public_key())
    for algorithm in (-7, -257, None, "ES256", [1]):
        with pytest.raises(SignatureError):
            verify_sign1(replace(message, header={1: algorithm}), rsa_key.public_key())


def _event(name: str, content: bytes) -> Event:
    data = tagged.write_tagged(tagged.TaggedEvent(tagged.TAG_MOD, name.encode() + b"\0"))
    return Event(13, EV_EVENT_TAG, (("sha256", digest("sha256", content)),), data)


def test_a_manifest_becomes_a_corim_that_finds_the_changed_component() -> None:
    log = EventLog((ALGORITHMS["sha256"],), (_event("a.v00", b"a"), _event("b.v00", b"b")))
    manifest = Manifest(
        "image",
        "casemate",
        "certified",
        "7",
        4,
        datetime(2026, 1, 1, tzinfo=UTC),
        ("sha256",),
        tuple(
            ExpectedEvent(e, ComponentRef(n))
            for e, n in zip(log.events, ("a.v00", "b.v00"), strict=True)
        ),
        replay(log),
    )
    corim = parse_corim(write_corim(corim_from_manifest(manifest)))
    assert compare_with_corim(corim, log, replay(log)) == ()
    evil = replace(log, events=(log.events[0], _event("b.v00", b"evil"), _event("c.v00", b"c")))
    found = {(f.code, f.component) for f in compare_with_corim(corim, evil, replay(evil))}
    assert found == {
        ("component-changed", "b.v00"),
        ("component-added", "c.v00"),
        ("pcr-changed", "PCR 13"),
    }
    short = replace(log, events=log.events[:1])
    codes = {f.code for f in compare_with_corim(corim, short, replay(log))}
    assert codes == {"component-removed"}
    only_raw = replace(
        GOOD,
        comids=(
            Comid(
                "x", 1, (ReferenceTriple(Environment(model="m"), (Measurement("r", raw=b"1"),)),)
            ),
        ),
    )
    assert [f.code for f in compare_with_corim(only_raw, log, {})] == ["not-appraised"]


LOG = write(EventLog((ALGORITHMS["sha256"],), (_event("a.v00", b"a"),)))
RIM = f"""<?xml version="1.0" encoding="UTF-8"?>
<SoftwareIdentity xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
  xmlns:SHA256="http://www.w3.org/2001/04/xmlenc#sha256" xmlns:rim="https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/"
  name="Example BIOS" tagId="94f6b457-9ac9-4d35-9b3f-78804173b65as" version="01" corpus="false">
  <Entity name="Example Inc" regid="http://example.com" role="softwareCreator tagCreator"/>
  <Meta rim:platformManufacturerStr="Example" rim:platformModel="X1"/>
  <Payload>
    <Directory name="rim">
      <File SHA256:hash="{hashlib.sha256(LOG).hexdigest()}" name="Example.rimel" size="{len(LOG)}"/>
    </Directory>
  </Payload>
  <ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#"><ds:SignedInfo/></ds:Signature>
</SoftwareIdentity>
""".encode()


def test_a_rim_lists_its_support_files_and_their_logs_are_read() -> None:
    rim = parse_rim(RIM)
    assert (rim.name, rim.creators, rim.has_xmldsig) == ("Example BIOS", ("Example Inc",), True)
    assert rim.platform == {"platformManufacturerStr": "Example", "platformModel": "X1"}
    assert len(support_log(rim, "Example.rimel", LOG).events) == 1
    for name, data in (
        ("Example.rimel", LOG + b"\0"),
        ("Other.rimel", LOG),
        ("Example.rimel", b""),
    ):
        with pytest.raises(DigestError) as caught:
            check_support(rim, name, data)
        assert caught.value.code == "reference-digest"


def test_a_rim_counts_only_with_a_signature_over_its_bytes() -> None:
    rim, subject = accept_rim(RIM, PKI.sign(RIM, "certified"), TRUST, NOW)
    assert rim.files
    assert "certified" in subject
    for data, signature, code in (
        (RIM, b"", "rim-malformed"),
        (RIM.replace(b"ds:Signature", b"ds:Other"), b"", "signature-missing"),
        (RIM + b"\n", PKI.sign(RIM, "certified"), "content-changed"),
        (RIM, PKI.sign(RIM, "community"), "signer-untrusted"),
    ):
        with pytest.raises((SignatureError, FormatError)) as caught:
            accept_rim(data, signature, TRUST, NOW)
        assert caught.value.code == code


_PAYLOAD = RIM[RIM.index(b"<Payload>") : RIM.index(b"</Payload>") + 10]
_BODY = RIM[RIM.index(b"<SoftwareIdentity") :]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + _BODY, "xml-doctype"),
        (b'<!DOCTYPE x [<!ENTITY a "aaa"><!ENTITY b "&a;&a;">]>' + _BODY, "xml-doctype"),
        (RIM.replace(_PAYLOAD, _PAYLOAD * 2), "rim-malformed"),
        (RIM.replace(_PAYLOAD, b""), "rim-malformed"),
        (
            RIM.replace(b"<ds:SignedInfo/>", b"<ds:Object>" + _PAYLOAD + b"</ds:Object>"),
            "rim-malformed",
        ),
        (RIM.replace(b"2015/schema.xsd", b"2009/schema.xsd"), "rim-malformed"),
        (RIM.replace(b"<Directory", b"<Payload/><Directory"), "rim-malformed"),
        (RIM.replace(b'size="', b'size="-'), "rim-malformed"),
        (RIM.replace(b"SHA256:hash", b"hash"), "reference-weak"),
        (RIM.replace(b"xmlenc#sha256", b"xmldsig#sha1"), "reference-weak"),
        (RIM.replace(b"xmlns:SHA256", b"xmlns:OTHER"), "rim-malformed"),
        (RIM.replace(b'SHA256:hash="', b'SHA256:hash="xx'), "rim-malformed"),
        (RIM.replace(_PAYLOAD, b"<Payload/>"), "reference-empty"),
        (RIM[:-20], "xml-syntax"),
        (
            b"<ds:Signature xmlns:ds='http://www.w3.org/2000/09/xmldsig#'>"
            + _BODY
            + b"</ds:Signature>",
            "rim-malformed",
        ),
    ],
)
def test_traps_in_xml_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_rim(data)
    assert caught.value.code == code
