"""Offline bundles: what is written is read; damaged ones are refused by our own errors."""

from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casemate.errors import CasemateError, LimitError
from casemate.formats import depot
from casemate.formats.depot import parse_depot, read_vib, write_depot
from casemate.formats.imgdb import ImageProfile
from casemate.testing.pki import MADE
from casemate.testing.smallimage import driver

VIBS = (driver("one"), driver("two", "2.0-1"))
PROFILE = ImageProfile("Small", "Tests", "partner", MADE, ("CSM_bootbank_one_1.0-1",), "For tests")
BUNDLE = write_depot(VIBS, [PROFILE], vendor="ACME Inc.")


def unpacked(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files if isinstance(files, list) else files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def changed(change, *, metadata=True):
    """Return the bundle after a change to the files of its metadata, or of itself."""
    files = unpacked(BUNDLE)
    if metadata:
        inner = unpacked(files["metadata.zip"])
        change(inner)
        files["metadata.zip"] = packed(inner)
    else:
        change(files)
    return packed(files)


def in_vibs(old, new):
    def change(files):
        for name in [name for name in files if name.startswith("vibs/one")]:
            assert old in files[name]
            files[name] = files[name].replace(old, new)

    return changed(change)


def test_what_is_written_is_read():
    found = parse_depot(io.BytesIO(BUNDLE))
    assert found.vendor == "ACME Inc."
    assert [vib.descriptor.name for vib in found.vibs] == ["one", "two"]
    assert found.profiles == (PROFILE,)
    for vib, data in zip(found.vibs, VIBS, strict=True):
        assert vib.path == f"vib20/{vib.descriptor.name}/{vib.descriptor.vib_id}.vib"
        assert read_vib(io.BytesIO(BUNDLE), vib) == data


def test_the_same_vibs_give_the_same_bundle():
    assert write_depot(VIBS, [PROFILE], vendor="ACME Inc.") == BUNDLE


def test_it_has_the_parts_of_vmwares():
    files = unpacked(BUNDLE)
    assert {"index.xml", "vendor-index.xml", "metadata.zip"} < set(files)
    assert "vmware.xml" in unpacked(files["metadata.zip"])


HOSTILE = {
    "nothing": (b"", "zip"),
    "no zip": (b"PK but not really", "zip"),
    "cut short": (BUNDLE[:-40], "depot-missing"),
    "no index": (changed(lambda f: f.pop("index.xml"), metadata=False), "depot-missing"),
    "no metadata": (changed(lambda f: f.pop("metadata.zip"), metadata=False), "depot-missing"),
    "metadata is no zip": (
        changed(lambda f: f.update({"metadata.zip": b"xx"}), metadata=False),
        "zip",
    ),
    "index without vendor": (
        changed(lambda f: f.update({"index.xml": b"<vendorList/>"}), metadata=False),
        "depot-index",
    ),
    "index with entities": (
        changed(
            lambda f: f.update({"index.xml": b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'}),
            metadata=False,
        ),
        "xml-doctype",
    ),
    "leads upwards": (
        changed(lambda f: f.update({"../evil": b""}), metadata=False),
        "depot-path",
    ),
    "leads to the root": (changed(lambda f: f.update({"/etc/x": b""})), "depot-path"),
    "odd characters": (changed(lambda f: f.update({"vibs/a\nb.xml": b""})), "depot-path"),
    "lists a VIB it lacks": (in_vibs(b"vib20/one/", b"vib20/eno/"), "depot-missing"),
    "a path upwards": (in_vibs(b"vib20/one/", b"../../one/"), "depot-missing"),
    "no size": (in_vibs(b"packed-size", b"packed-mass"), "depot-metadata"),
    "negative size": (in_vibs(b"<packed-size>", b"<packed-size>-"), "depot-metadata"),
    "a weak checksum": (in_vibs(b"type>sha-256", b"type>md5"), "depot-metadata"),
    "one VIB twice": (
        changed(
            lambda f: f.update(
                {"vibs/again.xml": next(d for n, d in f.items() if n.startswith("vibs/one"))}
            )
        ),
        "depot-duplicate",
    ),
    "a bad descriptor": (changed(lambda f: f.update({"vibs/x.xml": b"<vib/>"})), None),
    "a bad profile": (
        changed(lambda f: f.update({"profiles/x.xml": b"<imageprofile/>"})),
        "depot-profile",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bundles_are_refused(name):
    data, code = HOSTILE[name]
    with pytest.raises(CasemateError) as caught:
        parse_depot(io.BytesIO(data))
    assert caught.value.code == code or code is None
    assert caught.value.reason


def test_two_entries_of_one_name_are_refused():
    files = [*unpacked(BUNDLE).items(), ("index.xml", b"<vendorList/>")]
    with pytest.warns(UserWarning, match="Duplicate"):
        data = packed(files)
    with pytest.raises(CasemateError) as caught:
        parse_depot(io.BytesIO(data))
    assert caught.value.code == "depot-duplicate"


def test_a_bomb_does_not_unpack():
    data = changed(lambda f: f.update({"index.xml": bytes(depot.MAX_INDEX + 1)}), metadata=False)
    assert len(data) < depot.MAX_INDEX
    with pytest.raises(LimitError) as caught:
        parse_depot(io.BytesIO(data))
    assert caught.value.code == "bomb"


def test_another_vib_in_the_announced_place_is_noticed():
    found = parse_depot(io.BytesIO(BUNDLE)).vibs[0]
    data = changed(lambda f: f.update({found.path: VIBS[1]}), metadata=False)
    with pytest.raises(CasemateError) as caught:
        read_vib(io.BytesIO(data), found)
    assert caught.value.code in {"depot-changed", "bomb"}


@settings(max_examples=40)
@given(st.integers(0, len(BUNDLE) - 1), st.integers(1, 255))
def test_whatever_byte_is_changed_only_our_errors_come_out(place, difference):
    data = bytearray(BUNDLE)
    data[place] ^= difference
    try:
        for vib in parse_depot(io.BytesIO(bytes(data))).vibs:
            read_vib(io.BytesIO(bytes(data)), vib)
    except CasemateError:
        pass
