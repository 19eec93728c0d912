"""What a verifier is told once and keeps: secrets come from files, and nothing is half written."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from casemate.cli import verifierup
from casemate.errors import NotFoundError
from casemate.verifier.service import Settings


def settings(state: Path, *words: str) -> Settings:
    parser = argparse.ArgumentParser()
    verifierup.add_parsers(parser.add_subparsers())
    return verifierup._settings(parser.parse_args(["up", "--state", str(state), *words]))


def test_a_webhooks_key_comes_from_a_file_and_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret of both\n")
    state = tmp_path / "state"
    told = settings(state, "--webhook", "https://hook/", "--webhook-secret-file", str(key))
    assert told.webhook_secret == "secret of both"
    assert settings(state, "--syslog", "127.0.0.1:514").webhook_secret == "secret of both"
    assert (state / "settings.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(NotFoundError):
        settings(state, "--webhook-secret-file", str(tmp_path / "none"))


def test_settings_that_cannot_be_written_leave_those_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(tmp_path, "--webhook", "https://first/")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        settings(tmp_path, "--webhook", "https://second/")
    monkeypatch.undo()
    assert settings(tmp_path).webhook == "https://first/"
