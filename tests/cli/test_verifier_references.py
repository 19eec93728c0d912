"""References at the command line: a maker's RIM is tried and put in force with the log it lists."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from tests.verifier.conftest import make_anchors

from casemate.cli import verifier, verifierup
from casemate.errors import ArgumentError, DigestError
from casemate.testing.pki import shared_pki
from casemate.testing.rims import write_rim
from casemate.testing.smallhost import SmallHost
from casemate.verifier.service import Service


def shell(state: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    verifier.add_parser(parser.add_subparsers())
    options = parser.parse_args(["verifier", "reference", *words, "--state", str(state)])
    status: int = options.func(options)
    return status


def test_rim_is_tried_and_put_in_force_with_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_anchors(tmp_path)
    up = argparse.ArgumentParser()
    verifierup.add_parsers(up.add_subparsers())
    Service(verifierup._settings(up.parse_args(["up", "--state", str(tmp_path)]))).close()
    log = tmp_path / "Example.rimel"
    log.write_bytes(SmallHost().log_bytes())
    rim, signature = tmp_path / "rim.swidtag", tmp_path / "rim.p7s"
    rim.write_bytes(write_rim(log.read_bytes()))
    signature.write_bytes(shared_pki().sign(rim.read_bytes(), "certified"))
    words = (str(log), "--rim", str(rim), "--rim-signature", str(signature))
    with pytest.raises(ArgumentError):
        shell(tmp_path, "add", *words)
    assert shell(tmp_path, "check", *words, "--name", "small") == 0
    assert shell(tmp_path, "list") == 0
    assert "small" not in capsys.readouterr().out
    assert shell(tmp_path, "add", *words, "--name", "small") == 0
    capsys.readouterr()
    assert shell(tmp_path, "list", "--json") == 0
    (one,) = json.loads(capsys.readouterr().out)["references"]
    assert (one["profile"], one["build"], one["state"]) == ("small", "01", "in force")
    log.write_bytes(log.read_bytes() + b"\0")
    with pytest.raises(DigestError):
        shell(tmp_path, "add", *words, "--name", "small")
