"""VIB, descriptor and ar: what is written is read back, and no bytes do harm."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError
from casemate.formats.ar import parse_ar, write_ar
from casemate.formats.descriptor import (
    Checksum,
    Constraint,
    Descriptor,
    PayloadInfo,
    SoftwarePlatform,
    Url,
    VibType,
    parse_descriptor,
    write_descriptor,
)
from casemate.formats.descriptor_values import (
    ACCEPTANCE_LEVELS,
    CHECKSUM_SIZES,
    PAYLOAD_TYPES,
    RELATIONS,
)
from casemate.formats.vib import parse_vib, write_vib
from casemate.formats.xmltree import parse_xml
from casemate.testing.vibs import make_descriptor, make_vib

NAMES = st.from_regex(r"[0-9A-Za-z_.-]{1,35}", fullmatch=True)
MEMBERS = st.from_regex(r"[0-9A-Za-z_][0-9A-Za-z_.+-]{0,14}", fullmatch=True)
LINES = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=60).map(str.strip)
PROSE = st.lists(LINES, max_size=3).map("\n".join).map(str.strip)
PARTS = st.from_regex(r"[0-9A-Za-z][0-9A-Za-z .-]{0,20}", fullmatch=True).map(str.strip)
MOMENTS = st.datetimes(
    datetime(1990, 1, 1),  # noqa: DTZ001 - Hypothesis adds the zone
    datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from(
        [UTC, timezone(timedelta(hours=-5)), timezone(timedelta(minutes=345))]
    ),
)
CONSTRAINTS = st.lists(
    st.one_of(
        st.builds(Constraint, NAMES),
        st.builds(Constraint, NAMES, st.sampled_from(RELATIONS), NAMES),
    ),
    max_size=3,
).map(tuple)
CHECKSUMS = st.sampled_from(sorted(CHECKSUM_SIZES)).flatmap(
    lambda kind: st.builds(
        Checksum,
        st.just(kind),
        st.binary(min_size=CHECKSUM_SIZES[kind], max_size=CHECKSUM_SIZES[kind]),
        st.sampled_from(["", "gunzip"]),
    )
)
PAYLOADS = st.builds(
    PayloadInfo,
    MEMBERS,
    st.sampled_from(PAYLOAD_TYPES),
    st.integers(0, 1 << 32),
    st.lists(CHECKSUMS, max_size=3, unique_by=lambda one: (one.type, one.process)).map(tuple),
)
DESCRIPTORS = st.builds(
    Descriptor,
    name=NAMES,
    version=NAMES,
    vendor=PARTS,
    summary=LINES,
    release_date=MOMENTS,
    type=st.sampled_from(VibType),
    description=PROSE,
    urls=st.lists(st.builds(Url, PARTS.map(lambda s: s[:20].strip()), LINES), max_size=2).map(
        tuple
    ),
    depends=CONSTRAINTS,
    conflicts=CONSTRAINTS,
    replaces=CONSTRAINTS,
    provides=CONSTRAINTS,
    compatible_with=CONSTRAINTS,
    tags=st.lists(LINES.filter(bool), max_size=3).map(tuple),
    install_needs_maintenance=st.booleans(),
    remove_needs_maintenance=st.booleans(),
    hardware_vendors=st.lists(LINES.filter(bool), max_size=2).map(tuple),
    software_platforms=st.lists(st.builds(SoftwarePlatform, LINES, LINES, LINES), max_size=2).map(
        tuple
    ),
    files=st.lists(
        st.lists(NAMES.filter(lambda n: n.strip(".")), min_size=1, max_size=3).map("/".join),
        max_size=3,
    ).map(tuple),
    acceptance_level=st.sampled_from(ACCEPTANCE_LEVELS),
    live_install_allowed=st.booleans(),
    live_remove_allowed=st.booleans(),
    cimom_restart=st.booleans(),
    stateless_ready=st.booleans(),
    overlay=st.booleans(),
    payloads=st.lists(PAYLOADS, max_size=3, unique_by=lambda one: one.name).map(tuple),
)


@given(DESCRIPTORS)
def test_a_descriptor_that_is_written_is_read_back(descriptor):
    data = write_descriptor(descriptor)
    assert parse_descriptor(data) == descriptor
    assert write_descriptor(parse_descriptor(data)) == data


@given(st.lists(st.tuples(MEMBERS, st.binary(max_size=64)), max_size=5))
def test_an_archive_that_is_written_is_read_back(members):
    data = write_ar(members)
    assert [(member.name, bytes(member.data)) for member in parse_ar(data)] == members


@given(st.dictionaries(MEMBERS, st.binary(max_size=64), max_size=3), st.binary(max_size=64))
def test_a_vib_that_is_written_is_read_back(payloads, signature):
    reserved = {"descriptor.xml", "sig.pkcs7"}
    payloads = {name: data for name, data in payloads.items() if name not in reserved}
    descriptor = make_descriptor(payloads=payloads)
    written = write_descriptor(descriptor)
    vib = parse_vib(write_vib(written, signature, payloads.items()))
    assert (vib.descriptor, vib.descriptor_bytes, vib.signature) == (
        descriptor,
        written,
        signature,
    )
    assert {name: bytes(data) for name, data in vib.payloads.items()} == payloads


@given(st.binary(max_size=2048))
@pytest.mark.parametrize("parse", [parse_ar, parse_vib, parse_xml, parse_descriptor])
def test_whatever_the_bytes_only_our_error_escapes(parse, data):
    with contextlib.suppress(FormatError):
        parse(data)


@given(st.data())
def test_whatever_is_changed_in_a_vib_only_our_error_escapes(data):
    good = make_vib()
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 64)))
    broken = good[:start] + data.draw(st.binary(max_size=64)) + good[end:]
    with contextlib.suppress(FormatError):
        parse_vib(broken)


def test_payloads_are_views_not_copies():
    data = make_vib(payloads={"big": bytes(1 << 20)})
    assert parse_vib(data).payloads["big"].obj is data


def test_what_newer_builders_add_is_skipped():
    text = write_descriptor(make_descriptor()).replace(
        b"<overlay>", b'<config-schema><x y="1"/></config-schema><overlay>'
    )
    assert parse_descriptor(text) == make_descriptor()


def test_a_descriptor_in_the_old_style_of_driver_vendors_is_read():
    text = b"""<vib version="5.0"><type>bootbank</type><name>lsi-mr3</name>
    <version>7.732.03.00-1OEM.800.1.0.20613240</version><vendor>BCM</vendor>
    <summary>lsi_mr3: driver</summary><description>a driver</description>
    <release-date>2023-10-10T09:00:00.000000+00:00</release-date>
    <urls><url key="website">http://www.example.com</url></urls>
    <relationships><depends><constraint name="vmkapi_2_11_0_0"/>
    <constraint name="esx-version" relation="&gt;=" version="8.0.0"/></depends></relationships>
    <software-tags><tag>driver</tag><tag>PCIID 1000005d........</tag></software-tags>
    <system-requires><maintenance-mode>true</maintenance-mode>
    <softwarePlatform locale="" productLineID="embeddedEsx" version="8.*"/></system-requires>
    <file-list><file>usr/lib/vmware/vmkmod/lsi_mr3</file></file-list>
    <acceptance-level>certified</acceptance-level><live-install-allowed>false</live-install-allowed>
    <live-remove-allowed>false</live-remove-allowed><cimom-restart>false</cimom-restart>
    <stateless-ready>true</stateless-ready><overlay>false</overlay>
    <payloads><payload name="lsi_mr3" type="vgz" size="111423">
    <checksum checksum-type="sha-256" verify-process="gunzip">%s</checksum>
    <checksum checksum-type="sha-256">%s</checksum>
    <checksum checksum-type="sha-1" verify-process="gunzip">%s</checksum></payload></payloads>
    </vib>""" % (b"a" * 64, b"b" * 64, b"c" * 40)
    descriptor = parse_descriptor(text)
    assert descriptor.vib_id == "BCM_bootbank_lsi-mr3_7.732.03.00-1OEM.800.1.0.20613240"
    assert descriptor.install_needs_maintenance
    assert descriptor.remove_needs_maintenance
    assert descriptor.depends[1] == Constraint("esx-version", ">=", "8.0.0")
    assert descriptor.payloads[0].checksum("sha-256", "gunzip") == bytes.fromhex("aa" * 32)
    assert descriptor.payloads[0].checksum("sha-384") is None


@pytest.mark.skipif(shutil.which("ar") is None, reason="binutils ar is absent")
def test_ar_itself_reads_and_writes_what_we_do(tmp_path):
    (tmp_path / "demo.vib").write_bytes(make_vib())
    listed = subprocess.run(
        ["ar", "t", "demo.vib"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert listed.stdout.split() == ["descriptor.xml", "sig.pkcs7", "demo"]
    subprocess.run(["ar", "x", "demo.vib"], cwd=tmp_path, check=True)
    subprocess.run(
        ["ar", "rcSD", "other.vib", "descriptor.xml", "sig.pkcs7", "demo"],
        cwd=tmp_path,
        check=True,
    )
    assert (tmp_path / "other.vib").read_bytes() == make_vib()
