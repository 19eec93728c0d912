"""``casemate image install``: who is asked, and that nothing is written before the answer."""

from __future__ import annotations

import argparse
import datetime as dt
import json

import pytest
from argon2 import PasswordHasher
from tests.kernel.test_install import NAMES, SECTORS, write_image

from casemate.cli import image as command
from casemate.cli import install
from casemate.errors import ArgumentError, HostError, NotSupportedError
from casemate.formats.gpt import SECTOR
from casemate.formats.hostsettings import SIZE_LIMIT, parse_first
from casemate.formats.kickstart import parse_kickstart
from casemate.image.disk import MEBIBYTE
from casemate.image.pki import initialise, initialise_secure_boot
from casemate.kernel.boot.loader import read_trust
from casemate.kernel.boot.targets import Target
from casemate.kernel.home import Home
from casemate.policy.signedtext import split_signed, verify_signed


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A home with a built disk, and a machine whose only disk is a file."""
    (tmp_path / "bootable").mkdir()
    write_image(tmp_path / "bootable" / "disk.img", NAMES)
    target = tmp_path / "target"
    target.write_bytes(bytes(SECTORS * SECTOR))
    found = (Target(str(target), SECTORS * SECTOR, "A file", removable=False),)
    monkeypatch.setattr(install, "targets", lambda: found)
    return tmp_path


def run(place, *arguments):
    return parse_and_run(["image", "install", "--home", str(place), *map(str, arguments)])


def parse_and_run(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", default=None)
    command.add_parser(parser.add_subparsers())
    options = parser.parse_args(words)
    return options.func(options)


def script(place, text):
    path = place / "ks.cfg"
    path.write_text(text)
    return path


def test_an_unattended_file_installs_without_a_question(place, capsys):
    file = script(place, "accepteula\ninstall --firstdisk\nkeyboard de\n")
    assert run(place, "--script", file) == 0
    built, written = ((place / name).read_bytes() for name in ("bootable/disk.img", "target"))
    assert written[MEBIBYTE : 5 * MEBIBYTE] == built[MEBIBYTE : 5 * MEBIBYTE]
    assert "keyboard: ignored" in capsys.readouterr().out


def test_the_facts_of_an_installation_are_one_json_object(place, capsys):
    file = script(place, "accepteula\ninstall --firstdisk\nreboot\n")
    assert run(place, "--json", "--script", file) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["disk"], facts["size"]) == (str(place / "target"), SECTORS * SECTOR)
    assert len(facts["notes"]) == 1


@pytest.mark.parametrize("order", [("--home", 0), ("--home", 2)])
def test_the_home_is_taken_before_and_after_the_command(tmp_path, order):
    words = ["image", "install"]
    words[order[1] : order[1]] = [order[0], str(tmp_path)]
    with pytest.raises(HostError) as caught:
        parse_and_run(words)
    assert caught.value.component == str(tmp_path / "bootable" / "disk.img")


def test_a_file_that_asks_for_a_script_writes_nothing(place):
    file = script(place, "accepteula\ninstall --firstdisk\n%firstboot\nsh\n")
    with pytest.raises(NotSupportedError, match="nothing unsigned"):
        run(place, "--script", file)
    assert not any((place / "target").read_bytes())


def test_a_file_and_a_wish_to_overwrite_are_not_mixed(place):
    file = script(place, "accepteula\ninstall --firstdisk\n")
    with pytest.raises(ArgumentError):
        run(place, "--overwrite", "--script", file)
    assert not any((place / "target").read_bytes())


@pytest.mark.parametrize("answers", [["sda", "sdb"], ["sda", ""], ["sda"], []])
def test_without_the_name_typed_again_nothing_is_written(monkeypatch, place, answers):
    disk = Target("sda", SECTORS * SECTOR, "", removable=False)
    monkeypatch.setattr(install, "targets", lambda: (disk,))
    monkeypatch.setattr(install, "install", lambda *_args, **_options: pytest.fail("written"))
    waiting = iter(answers)

    def answer():
        try:
            return next(waiting)
        except StopIteration as error:
            raise EOFError from error

    monkeypatch.setattr("builtins.input", answer)
    with pytest.raises(ArgumentError, match="nothing was written"):
        run(place)


def test_the_name_typed_again_installs_on_that_disk(monkeypatch, place):
    disk = Target("sda", SECTORS * SECTOR, "", removable=False)
    monkeypatch.setattr(install, "targets", lambda: (disk,))
    written = []
    monkeypatch.setattr(
        install, "install", lambda _image, target, **options: written.append((target, options))
    )
    monkeypatch.setattr("builtins.input", lambda: "sda")
    run(place, "--disk", "/dev/sda")
    ((target, options),) = written
    assert target == disk.path
    assert options["overwrite"] is False


def test_without_a_built_disk_the_way_to_one_is_told(tmp_path):
    with pytest.raises(HostError) as caught:
        run(tmp_path)
    assert "image disk" in caught.value.remedy


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    home = tmp_path_factory.mktemp("keys")
    initialise(home, now=dt.datetime.now(dt.UTC))
    return home


def test_a_password_is_hashed_before_it_goes_anywhere_and_the_settings_are_signed(keys):
    told = parse_kickstart(
        b"accepteula\ninstall --firstdisk\nrootpw Wald-und-Wiese7\n"
        b"network --bootproto=dhcp --hostname=esx1\n"
    )
    data = install.signed_settings(Home(keys), told)
    assert b"Wald" not in data
    signed = split_signed(data)
    store, _ = read_trust(keys / "trust")
    assert verify_signed(signed, store, dt.datetime.now(dt.UTC), component="settings")
    found = parse_first(signed.body)
    assert found.network.host_name == "esx1"
    assert PasswordHasher().verify(found.password_hash, "Wald-und-Wiese7")
    assert len(data) < SIZE_LIMIT // 2


def test_a_file_that_chooses_nothing_hands_nothing_over(keys):
    told = parse_kickstart(b"accepteula\ninstall --firstdisk\nnetwork --bootproto=dhcp\n")
    assert install.signed_settings(Home(keys), told) == b""


def test_a_weak_password_installs_nothing(place):
    file = script(place, "accepteula\ninstall --firstdisk\nrootpw secret\n")
    with pytest.raises(ArgumentError) as caught:
        run(place, "--script", file)
    assert "secret" not in str(caught.value)
    assert not any((place / "target").read_bytes())


def test_an_iso_of_a_home_without_a_built_disk_tells_the_way_to_one(keys, tmp_path):
    initialise_secure_boot(keys, now=dt.datetime.now(dt.UTC))
    with pytest.raises(HostError) as caught:
        parse_and_run(["image", "iso", "--home", str(keys), "-o", str(tmp_path / "x.iso")])
    assert "image disk" in caught.value.remedy
    assert not (tmp_path / "x.iso").exists()
