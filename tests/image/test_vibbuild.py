"""VIBs made from a directory and a TOML file: the same twice, signed, and refused where wrong."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from casemate.errors import CasemateError
from casemate.formats.tarball import parse_tgz
from casemate.formats.vib import parse_vib
from casemate.image.vibbuild import build_vib, sign_vib, sign_with
from casemate.policy.levels import Level
from casemate.testing.pki import NOW, SIGNED, shared_pki
from casemate.testing.vibs import judge

RELEASED = datetime(2026, 5, 1, tzinfo=UTC)
RECIPE = """
name = "acme-net"
version = "1.0.0-1"
vendor = "ACM"
summary = "A driver"
level = "partner"
type = "tgz"
depends = ["casemate-kernel >= 0.1", "python"]
tags = ["driver"]
live-install = true
[urls]
kb = "https://example.org/kb"
"""


@pytest.fixture
def root(tmp_path):
    place = tmp_path / "root/opt/acme"
    place.mkdir(parents=True)
    (place / "driver").write_bytes(b"#!/bin/sh\n")
    (place / "driver").chmod(0o700)
    (place / "link").symlink_to("driver")
    return tmp_path / "root"


def build(root, recipe=RECIPE, released=RELEASED):
    return build_vib(root, recipe.encode(), released=released, scratch=root.parent)


def test_a_directory_becomes_a_vib(root):
    vib = parse_vib(build(root))
    one = vib.descriptor
    assert one.vib_id == "ACM_bootbank_acme-net_1.0.0-1"
    assert (one.live_install_allowed, one.live_remove_allowed) == (True, False)
    assert [str(need) for need in one.depends] == ["casemate-kernel >= 0.1", "python"]
    assert one.files == ("opt/acme/driver", "opt/acme/link")
    assert one.release_date == RELEASED
    entries = {e.path: e for e in parse_tgz(vib.payloads["acmenet"])}
    assert entries["opt/acme/driver"].mode == 0o555
    assert entries["opt/acme/link"].target == "driver"


def test_the_same_directory_gives_the_same_bytes(root):
    assert build(root) == build(root)


def test_a_signed_one_is_good_and_can_be_signed_again(root):
    signer = shared_pki().signers["partner"]
    chain = signer.pem + shared_pki().issuers["partner"].pem
    signed = sign_vib(build(root), chain, signer.key_pem, now=SIGNED)
    assert judge(signed).level is Level.PARTNER
    assert judge(sign_vib(signed, chain, signer.key_pem, now=NOW)).signing_time == NOW


def test_a_signature_made_elsewhere_must_fit(root):
    data = build(root)
    good = shared_pki().sign(parse_vib(data).descriptor_bytes, "partner")
    assert judge(sign_with(data, good)).level is Level.PARTNER
    with pytest.raises(CasemateError) as caught:
        sign_with(data, shared_pki().sign(b"something else", "partner"))
    assert caught.value.code == "content-changed"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('name = "acme-net"', "", "argument"),
        ("summary", "sumary", "argument"),
        ('"tgz"', '"rpm"', "argument"),
        ('"partner"', '"platinum"', "argument"),
        ("true", '"yes"', "argument"),
        ('["driver"]', '"driver"', "argument"),
        ("kernel >= 0.1", "kernel >= ", "argument"),
        ("[urls]", "[urls", "argument"),
        ('type = "tgz"', 'payload = "far-too-long"', "argument"),
        ('"1.0.0-1"', '"1.0 beta"', "descriptor-name"),
        ('"A driver"', f'"{"x" * 90}"', "descriptor-limit"),
    ],
)
def test_a_wrong_toml_is_refused_by_the_key(root, old, new, code):
    assert old in RECIPE
    with pytest.raises(CasemateError) as caught:
        build(root, RECIPE.replace(old, new, 1))
    assert caught.value.code == code
    assert caught.value.remedy


def test_a_release_date_must_come_from_somewhere(root):
    with pytest.raises(CasemateError):
        build(root, released=None)


def test_files_where_the_level_may_not_write_are_told_to_the_builder(root):
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("")
    with pytest.raises(CasemateError) as caught:
        build(root)
    assert caught.value.code == "path-not-allowed"


@pytest.mark.parametrize("part", ["certificate", "key", "other"])
def test_wrong_keys_are_refused(root, part):
    signer, other = shared_pki().signers["partner"], shared_pki().signers["accepted"]
    certificate, key = {
        "certificate": (b"nothing", signer.key_pem),
        "key": (signer.pem, b"nothing"),
        "other": (signer.pem, other.key_pem),
    }[part]
    with pytest.raises(CasemateError):
        sign_vib(build(root), certificate, key, now=NOW)
