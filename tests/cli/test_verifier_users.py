"""People at the command line of a verifier."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from tests.verifier.conftest import PASSWORD, make_anchors

from casemate.cli import verifier, verifierup
from casemate.errors import ArgumentError, LoginError
from casemate.verifier.people import Role
from casemate.verifier.service import Service

NEW = "another good password"


def shell(state: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    verifier.add_parser(parser.add_subparsers())
    options = parser.parse_args(["verifier", "users", *words, "--state", str(state)])
    status: int = options.func(options)
    return status


def test_own_password_is_changed_by_who_knows_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_anchors(tmp_path)
    up = argparse.ArgumentParser()
    verifierup.add_parsers(up.add_subparsers())
    service = Service(verifierup._settings(up.parse_args(["up", "--state", str(tmp_path)])))
    service.people.put("vera", Role.VIEWER, PASSWORD, "test")
    service.close()
    monkeypatch.setenv("CASEMATE_NEW_PASSWORD", NEW)
    with pytest.raises(ArgumentError):
        shell(tmp_path, "password")
    monkeypatch.setenv("CASEMATE_VERIFIER_PASSWORD", "guess")
    with pytest.raises(LoginError):
        shell(tmp_path, "password", "--user", "vera")
    monkeypatch.setenv("CASEMATE_VERIFIER_PASSWORD", PASSWORD)
    assert shell(tmp_path, "password", "--user", "vera") == 0
    assert "vera: password changed" in capsys.readouterr().out
    with pytest.raises(LoginError):
        shell(tmp_path, "password", "--user", "vera")
