"""IMA lists: real ones decode and replay, hostile ones are refused by name."""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import CasemateError, FormatError, LimitError, SignatureError
from casemate.formats import ima
from casemate.formats.algorithms import digest
from casemate.formats.ima import parse_ima, write_ima
from casemate.formats.imafields import measurement, split_fields
from casemate.formats.imareplay import ImaState, KnownData, match, replay_ima, wrong_template
from casemate.formats.imasign import key_id_of, parse_file_signature, verify_file_signature
from casemate.formats.imatext import looks_like_ima, parse_ima_any, parse_ima_text
from casemate.testing.imalists import entries_strategy, pack_fields, record, violation


def _refusal(function: Callable[[Any], object], argument: object) -> str:
    """Return the code with which an argument is refused, or nothing."""
    try:
        function(argument)
    except FormatError as error:
        return error.code
    return ""


def test_real_binary_list_decodes_and_every_template_hash_holds(corpus: Path) -> None:
    raw = (corpus / "ima" / "charra-binary_runtime_measurements").read_bytes()
    found = parse_ima(raw)
    assert len(found.entries) == 1650
    assert wrong_template(found.entries) is None
    assert write_ima(found.entries) == raw
    assert measurement(found.entries[0]).is_boot_aggregate
    assert measurement(found.entries[1]).path == b"/init"


def test_real_text_list_decodes_and_every_template_hash_holds(corpus: Path) -> None:
    found = parse_ima_any((corpus / "ima" / "rust-keylime-ascii_runtime_measurements").read_bytes())
    assert (found.algorithm, len(found.entries)) == ("sha1", 826)
    assert wrong_template(found.entries) is None
    assert measurement(found.entries[2]).path == b"/bin/sh"


@given(entries_strategy())
def test_what_is_written_is_read_again(entries: tuple[ima.ImaEntry, ...]) -> None:
    assert parse_ima(write_ima(entries)).entries == entries


@given(st.binary(max_size=200) | entries_strategy().map(write_ima), st.data())
def test_any_bytes_give_a_list_or_one_of_our_errors(raw: bytes, data: st.DataObject) -> None:
    cut = raw[: data.draw(st.integers(0, len(raw)))]
    for reader in (parse_ima, parse_ima_text, parse_ima_any):
        try:
            entries = reader(cut).entries
        except CasemateError:
            continue
        for entry in entries:
            assert _refusal(measurement, entry) in {"", "ima-template", "ima-template-unknown"}


def test_a_list_cut_anywhere_inside_a_record_is_refused() -> None:
    entries = (record(b"/a"), record(b"/bb"), violation(b"/c"))
    raw = write_ima(entries)
    ends = {len(write_ima(entries[:n])) for n in range(4)}
    for cut in range(len(raw)):
        if cut in ends:
            assert len(parse_ima(raw[:cut]).entries) < 3
        else:
            with pytest.raises(FormatError):
                parse_ima(raw[:cut])


@pytest.mark.parametrize("template", ["ima-ng", "of-tomorrow", "ima"])
def test_lengths_that_lie_are_refused_at_once(template: str) -> None:
    head = struct.pack("<I", 10) + bytes(20)
    name = template.encode()
    digest = bytes(20) if template == "ima" else b""
    for raw in (
        head + struct.pack("<I", 0xFFFFFFFF) + name,
        head + struct.pack("<I", 0),
        head + struct.pack("<I", len(name)) + name + digest + struct.pack("<I", 0xFFFFFFFF),
        head + struct.pack("<I", len(name)) + name + digest + struct.pack("<I", 100) + b"short",
    ):
        for before in (b"", write_ima((record(b"/usual"),))):
            begin = time.process_time()
            with pytest.raises(FormatError):
                parse_ima(before + raw)
            assert time.process_time() - begin < 20


def test_too_many_records_and_too_many_bytes_are_refused() -> None:
    tiny = struct.pack("<I", 10) + bytes(20) + struct.pack("<I", 1) + b"x" + bytes(4)
    with pytest.raises(LimitError):
        parse_ima(tiny * (ima.MAX_ENTRIES + 1))
    with pytest.raises(LimitError):
        parse_ima(bytes(ima.MAX_SIZE + 1))


@pytest.mark.parametrize(
    "path", [b"/with\nnewline", b"/with space", b"/with\0nul", b"/\xff\xfe", b"/" + b"x" * 4095]
)
def test_paths_are_kept_byte_by_byte(path: bytes) -> None:
    (entry,) = parse_ima(write_ima((record(path),))).entries
    assert measurement(entry).path == path


@pytest.mark.parametrize(
    ("template", "extra"),
    [
        ("ima-sig", [b"\3\2\4sig"]),
        ("ima-ngv2", []),
        ("ima-sigv2", [b""]),
        ("ima-buf", [b"buffer"]),
        ("ima-modsig", [b"", b"sha256:\0" + bytes(32), b"pkcs7"]),
        (
            "evm-sig",
            [b"s", b"security.ima\0", b"\4\0\0\0", b"\1\2\3\4", bytes(4), bytes(4), b"\1\0"],
        ),
    ],
)
def test_every_template_of_linux_decodes_from_bytes_and_from_text(
    template: str, extra: list[bytes]
) -> None:
    entry = record(b"/usr/bin/x", template=template, extra=extra)
    found = measurement(parse_ima(write_ima((entry,))).entries[0])
    assert (found.path, found.algorithm, len(found.digest)) == (b"/usr/bin/x", "sha256", 32)
    label = b"ima:sha256" if template.endswith("v2") else b"sha256"
    shown = [label + b":" + found.digest.hex().encode(), b"/usr/bin/x"]
    for name, value in (found.fields or {}).items():
        if name in {"iuid", "igid", "imode"}:
            shown.append(str(int.from_bytes(value, "little")).encode())
        elif name == "xattrnames":
            shown.append(value[:-1])
        elif name == "d-modsig":
            shown.append(b"sha256:" + value[8:].hex().encode())
        else:
            shown.append(value.hex().encode())
    line = b"10 " + entry.template_hash.hex().encode() + b" " + template.encode()
    assert parse_ima_text(line + b" " + b" ".join(shown) + b"\n").entries == (entry,)


def test_the_old_template_hashes_the_padded_name() -> None:
    entry = record(b"/sbin/init", template="ima")
    line = b"10 %s ima %s /sbin/init\n" % (
        entry.template_hash.hex().encode(),
        hashlib.sha1(b"content").hexdigest().encode(),
    )
    assert parse_ima_text(line).entries == (entry,)
    assert wrong_template(parse_ima(write_ima((entry,))).entries) is None


def test_an_unknown_template_is_carried_and_replayed_but_not_understood() -> None:
    entry = record(b"/x", template="of-tomorrow", extra=[b"?"])
    (read,) = parse_ima(write_ima((entry,))).entries
    assert wrong_template((read,)) is None
    with pytest.raises(FormatError) as caught:
        measurement(read)
    assert caught.value.code == "ima-template-unknown"


@given(entries_strategy(), st.booleans(), st.data())
def test_a_quote_matches_exactly_where_it_was_taken(
    entries: tuple[ima.ImaEntry, ...], padded: bool, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(entries)))
    quoted = {b: replay_ima(entries[:count], b, padded=padded) for b in ("sha256", "sha1")}
    found = match(entries, quoted, padded=padded).state
    assert found == ImaState(count, quoted)
    later = {b: replay_ima(entries, b, padded=padded) for b in quoted}
    again = match(entries[count:], later, start=found, padded=padded)
    assert again.wrong is None
    assert again.state == ImaState(len(entries), later)


def test_banks_that_disagree_match_nowhere() -> None:
    entries = (record(b"/a"), record(b"/b"))
    quoted = {"sha256": replay_ima(entries, "sha256"), "sha384": replay_ima(entries[:1], "sha384")}
    assert match(entries, quoted).state is None
    assert match(entries, {}).state is None


def _signed(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, message: bytes, kind: int
) -> bytes:
    chosen = Prehashed(hashes.SHA256())
    if isinstance(key, rsa.RSAPrivateKey):
        value = key.sign(message, padding.PKCS1v15(), chosen)
    else:
        value = key.sign(message, ec.ECDSA(chosen))
    head = bytes((kind, 2 if kind == 3 else 3, 4)) + key_id_of(key.public_key())
    return head + len(value).to_bytes(2, "big") + value


@pytest.mark.parametrize("kind", [3, 6])
@pytest.mark.parametrize("algorithm", ["rsa", "ec"])
def test_file_signatures_of_both_versions_verify_and_break(kind: int, algorithm: str) -> None:
    key = (
        rsa.generate_private_key(65537, 2048)
        if algorithm == "rsa"
        else ec.generate_private_key(ec.SECP256R1())
    )
    digest = hashlib.sha256(b"content").digest()
    message = digest if kind == 3 else hashlib.sha256(bytes((6, 4)) + digest).digest()
    raw = _signed(key, message, kind)
    measured = measurement(record(b"/x", template="ima-sig", extra=[raw]))
    signature = parse_file_signature(measured.signature)
    verify_file_signature(signature, measured, key.public_key())
    other = measurement(record(b"/x", b"other", template="ima-sig", extra=[raw]))
    with pytest.raises(SignatureError):
        verify_file_signature(signature, other, key.public_key())


@given(st.binary(max_size=80))
def test_a_signature_of_any_bytes_is_read_or_refused(raw: bytes) -> None:
    assert _refusal(parse_file_signature, raw) in {"", "ima-signature"}


def test_template_data_with_lying_fields_is_refused() -> None:
    for data in (b"\xff\xff\xff\xff", b"\1", pack_fields(*[b""] * 17), pack_fields(b"sha256")):
        with pytest.raises(FormatError):
            measurement(ima.ImaEntry(10, bytes(20), "ima-ng", data))


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha384", "sha512"])
def test_a_list_of_any_bank_is_known_by_its_first_record(algorithm: str) -> None:
    entries = tuple(
        one._replace(template_hash=digest(algorithm, one.data))
        for one in (record(b"boot_aggregate"), record(b"/x", template="ima-sig", extra=[b"s"]))
    )
    raw = ima.write_ima(entries)
    assert looks_like_ima(raw)
    assert parse_ima_any(raw) == ima.ImaList(algorithm, entries)


def test_text_that_lost_the_spaces_of_empty_last_fields() -> None:
    for template, extra in (("ima-sig", [b""]), ("ima-modsig", [b"", b"", b""])):
        entry = record(b"/usr/bin/x", template=template, extra=extra)
        value = measurement(entry).digest.hex()
        line = f"10 {entry.template_hash.hex()} {template} sha256:{value} /usr/bin/x"
        for tail in ("", " " * len(extra)):
            assert parse_ima_text(f"{line}{tail}\n".encode()).entries == (entry,)


def test_a_template_given_by_its_format_is_understood() -> None:
    entry = record(b"/x", template="d-ng|n-ng|buf", extra=[b"b"])
    assert measurement(entry).fields == {"buf": b"b"}
    with pytest.raises(FormatError):
        measurement(record(b"/x", template="n-ng|d-ng"))
    with pytest.raises(FormatError):
        measurement(record(b"/x", template="d-ng|n-ng|secret", extra=[b""]))


@given(entries_strategy(), st.data())
def test_what_is_remembered_of_known_data_changes_no_result(
    entries: tuple[ima.ImaEntry, ...], data: st.DataObject
) -> None:
    usual = tuple(entry for entry in entries if not entry.is_violation)
    known = KnownData(frozenset(entry.data for entry in usual[: data.draw(st.integers(0, 12))]))
    hostile = tuple(
        entry._replace(
            template_hash=data.draw(st.sampled_from((entry.template_hash, bytes(20), b"x" * 20)))
        )
        for entry in entries
    )
    for listed in (entries, hostile, entries):
        quoted = {"sha256": replay_ima(listed, "sha256")}
        assert match(listed, quoted, known=known) == match(listed, quoted)
        assert set(known.hashes("sha1", "sha256")) <= known.templates


def _of_big_endian(entries: tuple[ima.ImaEntry, ...]) -> tuple[bytes, bytes, tuple[bytes, ...]]:
    """Return binary list, text list and template data as a big-endian kernel makes them."""
    raw, text, datas = b"", b"", []
    for entry in entries:
        fields = split_fields(entry.data)
        data = b"".join(struct.pack(">I", len(field)) + field for field in fields)
        name = entry.template.encode()
        template_hash = bytes(20) if entry.is_violation else digest("sha1", data)
        raw += struct.pack(">I20sI", entry.pcr, template_hash, len(name)) + name
        raw += struct.pack(">I", len(data)) + data
        label, _, value = fields[0].partition(b":\0")
        shown = [b"%s:%s" % (label, value.hex().encode()), fields[1][:-1]]
        shown += [field.hex().encode() for field in fields[2:]]
        text += b" ".join((b"10", template_hash.hex().encode(), name, *shown)) + b"\n"
        datas.append(data)
    return raw, text, tuple(datas)


def test_lists_of_big_endian_kernels_decode_and_lead_to_their_pcr() -> None:
    entries = (
        record(b"boot_aggregate"),
        record(b"/bin/sh", template="ima-sig", extra=[b"\3\2sig"]),
        violation(b"/var/log"),
        record(b"/bin/ls"),
    )
    raw, text, datas = _of_big_endian(entries)
    ones = b"\xff" * 32
    value = bytes(32)
    for entry, data in zip(entries, datas, strict=True):
        extended = ones if entry.is_violation else digest("sha256", data)
        value = digest("sha256", value + extended)
    for told in (raw, text):
        assert looks_like_ima(told)
        found = parse_ima_any(told)
        assert tuple(entry.data for entry in found.entries) == datas
        assert wrong_template(found.entries) is None
        assert replay_ima(found.entries, "sha256") == value
        paths = [measurement(entry).path for entry in found.entries]
        assert paths == [b"boot_aggregate", b"/bin/sh", b"/var/log", b"/bin/ls"]
    for cut in range(1, len(raw)):
        _refusal(parse_ima_any, raw[:cut])
