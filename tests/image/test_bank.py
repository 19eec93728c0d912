from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from casemate.errors import NotFoundError
from casemate.formats.bootcfg import BootState, patch_state
from casemate.formats.vib import parse_vib
from casemate.image.build import make_payload, make_vib
from casemate.image.files import Form, Recipe
from casemate.image.pki import list_anchors, load_signer
from casemate.image.profile import make_profile, read_bank, write_bank
from casemate.image.tree import File, by_path
from casemate.policy.acceptance import verify_vib
from casemate.policy.levels import Level
from casemate.policy.trust import trust_from_files

RELEASED = datetime(2026, 11, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 21, tzinfo=UTC)


def recipe(content=b"loader", **more):
    nodes = by_path([File("casemate/x.py", content)])
    return Recipe("boot", "b.b00", "1.0-1", "Loader", "", "certified", nodes, form=Form.ZIP, **more)


def build(home, content=b"loader"):
    payload = make_payload(recipe(content), home, "toolchain")
    return make_vib(recipe(content), payload, load_signer(home, Level.CERTIFIED), home, RELEASED)


def profile(vibs):
    return make_profile(vibs, name="Test", vendor="Casemate", level="partner", created=RELEASED)


def test_a_vib_made_twice_has_the_same_bytes_and_is_accepted(signing_home):
    first = build(signing_home).path.read_bytes()
    vib = build(signing_home)
    assert vib.path.read_bytes() == first
    parsed = parse_vib(first)
    anchors = ((a.level, a.path.read_bytes()) for a in list_anchors(signing_home))
    verdict = verify_vib(
        parsed.descriptor_bytes, parsed.signature, trust_from_files(anchors), Level.CERTIFIED, NOW
    )
    assert verdict.level is Level.CERTIFIED
    (payload,) = parsed.descriptor.payloads
    assert payload.checksum("sha-256") == hashlib.sha256(parsed.payloads[payload.name]).digest()


def test_dependencies_and_dates_stand_in_the_descriptor(signing_home):
    needy = recipe(requires=frozenset({"python", "base-libs"}))
    payload = make_payload(needy, signing_home, "toolchain")
    signer = load_signer(signing_home, Level.CERTIFIED)
    vib = parse_vib(make_vib(needy, payload, signer, signing_home, RELEASED).path.read_bytes())
    assert [str(one) for one in vib.descriptor.depends] == ["base-libs", "python"]
    assert vib.descriptor.release_date == RELEASED


def test_the_cache_is_used_for_the_same_inputs_only(signing_home):
    assert not make_payload(recipe(), signing_home, "one").cached
    assert make_payload(recipe(), signing_home, "one").cached
    assert not make_payload(recipe(b"other"), signing_home, "one").cached
    assert not make_payload(recipe(b"other"), signing_home, "two").cached
    assert len(list(signing_home.glob("*.payload"))) == 1


def test_a_payload_tampered_with_in_the_cache_is_built_again(signing_home):
    good = make_payload(recipe(), signing_home, "one")
    data = bytearray(good.path.read_bytes())
    data[40] ^= 1
    good.path.write_bytes(data)
    again = make_payload(recipe(), signing_home, "one")
    assert not again.cached
    assert again.sha256 == good.sha256 == hashlib.sha256(again.path.read_bytes()).hexdigest()


def test_a_bank_holds_what_was_written_and_is_not_written_again(signing_home):
    vib = build(signing_home)
    bank = signing_home / "bootbank"
    assert write_bank(bank, [vib], profile([vib]), build="7")
    assert not write_bank(bank, [vib], profile([vib]), build="7")
    configuration, database = read_bank(bank)
    assert [module.name for module in configuration.files] == ["b.b00", "imgdb.tgz"]
    assert configuration.bootstate is BootState.VALID
    assert database.vibs[0].descriptor_bytes == vib.descriptor
    assert sorted(path.name for path in bank.iterdir()) == ["b.b00", "boot.cfg", "imgdb.tgz"]


@pytest.mark.parametrize("name", ["b.b00", "imgdb.tgz", "boot.cfg"])
def test_a_damaged_bank_is_written_again(signing_home, name):
    vib = build(signing_home)
    bank = signing_home / "bootbank"
    write_bank(bank, [vib], profile([vib]), build="7")
    data = bytearray((bank / name).read_bytes())
    data[-10] ^= 1
    (bank / name).write_bytes(data)
    assert write_bank(bank, [vib], profile([vib]), build="7")
    assert (bank / "b.b00").read_bytes() == vib.payloads["b"].read_bytes()


def test_a_bank_that_failed_to_boot_is_written_again_as_valid(signing_home):
    vib = build(signing_home)
    bank = signing_home / "bootbank"
    write_bank(bank, [vib], profile([vib]), build="7")
    configuration = bank / "boot.cfg"
    configuration.write_bytes(patch_state(configuration.read_bytes(), BootState.INVALID))
    assert write_bank(bank, [vib], profile([vib]), build="7")
    assert read_bank(bank)[0].bootstate is BootState.VALID


def test_a_new_bank_is_newer_than_every_other(signing_home):
    vib = build(signing_home)
    other = signing_home / "altbootbank"
    for build_number in ("1", "2", "3"):
        write_bank(other, [vib], profile([vib]), build=build_number)
    bank = signing_home / "bootbank"
    write_bank(bank, [vib], profile([vib]), build="4")
    assert read_bank(bank)[0].updated > read_bank(other)[0].updated == 3


def test_leftovers_of_an_interrupted_writer_do_no_harm(signing_home):
    vib = build(signing_home)
    bank = signing_home / "bootbank"
    for name in ("bootbank.new", "bootbank.old"):
        (signing_home / name).mkdir()
        (signing_home / name / "b.b00").write_bytes(b"half")
    assert write_bank(bank, [vib], profile([vib]), build="7")
    assert read_bank(bank)[0].build == "7"
    assert not list(signing_home.glob("bootbank.*"))


def test_an_empty_bank_says_how_to_fill_it(tmp_path):
    with pytest.raises(NotFoundError) as caught:
        read_bank(tmp_path)
    assert "casemate image build" in caught.value.remedy
