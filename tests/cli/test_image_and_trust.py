from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime

import pytest

from casemate.cli import image, trust
from casemate.errors import ArgumentError, NotFoundError
from casemate.image.pki import initialise


def run(capsys, *arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", default=None)
    commands = parser.add_subparsers()
    image.add_parser(commands)
    trust.add_parser(commands)
    options = parser.parse_args([str(argument) for argument in arguments])
    status = options.func(options)
    return status, capsys.readouterr().out


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    place = tmp_path_factory.mktemp("home")
    initialise(place, now=datetime.now(UTC))
    return place


def test_the_home_is_taken_before_and_after_the_command(home, capsys):
    before = run(capsys, "--home", home, "trust", "list", "--json")
    after = run(capsys, "trust", "list", "--json", "--home", home)
    assert before == after
    assert before[0] == 0


def test_init_again_says_that_nothing_was_made(home, capsys):
    status, text = run(capsys, "trust", "init", "--home", home, "--json")
    facts = json.loads(text)
    assert (status, facts["made"]) == (0, False)
    levels = [anchor["level"] for anchor in facts["anchors"]]
    assert list(dict.fromkeys(levels)) == ["certified", "accepted", "partner", "community"]


def test_the_list_is_readable(home, capsys):
    _, text = run(capsys, "trust", "list", "--home", home)
    assert "casemate-dev-certified" in text


def test_an_added_anchor_is_listed(home, capsys, tmp_path):
    source = tmp_path / "vendor.pem"
    source.write_bytes((home / "pki/partner-ca.pem").read_bytes())
    status, _ = run(capsys, "trust", "add", source, "--level", "partner", "--home", home, "--json")
    _, text = run(capsys, "trust", "list", "--home", home, "--json")
    names = [(one["level"], one["name"]) for one in json.loads(text)["anchors"]]
    assert status == 0
    assert ("partner", "vendor") in names


def test_an_unknown_level_is_bad_usage(home, capsys, tmp_path):
    with pytest.raises(SystemExit) as caught:
        run(capsys, "trust", "add", tmp_path / "x", "--level", "platinum", "--home", home)
    assert caught.value.code == 2


def test_the_profile_of_an_empty_home_says_what_to_do(tmp_path, capsys):
    with pytest.raises(NotFoundError) as caught:
        run(capsys, "image", "profile", "--home", tmp_path)
    assert "image build" in caught.value.remedy


def test_the_release_date_can_be_set_from_outside(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert image.released() == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ArgumentError):
        image.released()


@pytest.mark.host
def test_build_then_profile_tell_the_same_image(tmp_path, capsys):
    status, text = run(capsys, "image", "build", "--home", tmp_path, "--json")
    built = json.loads(text)
    assert status == 0
    assert built["written"]
    status, text = run(capsys, "image", "profile", "--home", tmp_path, "--json")
    shown = json.loads(text)
    assert shown["build"] == built["build"]
    assert shown["bootstate"] == "VALID"
    assert [one["name"] for one in shown["vibs"]] == [one["name"] for one in built["vibs"]]
    assert "casemate-kernel" in run(capsys, "image", "profile", "--home", tmp_path)[1]
    assert "qemu" in run(capsys, "image", "build", "--home", tmp_path)[1]
