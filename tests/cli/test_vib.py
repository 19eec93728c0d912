"""``casemate vib``: verdicts, findings and exit statuses as people and scripts see them."""

from __future__ import annotations

import argparse
import io
import json
import tarfile

import pytest

from casemate.cli import vib
from casemate.errors import HostError, NotFoundError
from casemate.formats.depot import write_depot
from casemate.formats.descriptor import write_descriptor
from casemate.formats.vib import parse_vib, write_vib
from casemate.testing.pki import shared_pki
from casemate.testing.vibs import PAYLOADS, make_descriptor, make_vib

ID = "CSM_bootbank_demo_1.0.0-1"


@pytest.fixture
def trust(tmp_path):
    """A home's trust directory: the CA of each level in its place."""
    for level, ca in shared_pki().issuers.items():
        place = tmp_path / "trust" / level
        place.mkdir(parents=True)
        (place / "ca.pem").write_bytes(ca.pem)
    return tmp_path / "trust"


@pytest.fixture
def run(tmp_path, capsys):
    """Run a vib command over the given bytes; returns exit status and output."""

    def call(action: str, data: bytes | None, *options: str) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        vib.add_parser(parser.add_subparsers())
        path = tmp_path / "demo.vib"
        if data is not None:
            path.write_bytes(data)
        home = ("--home", str(tmp_path))
        parsed = parser.parse_args(["vib", action, str(path), *home, *options])
        status = parsed.func(parsed)
        return status, capsys.readouterr().out

    return call


@pytest.mark.usefixtures("trust")
def test_a_good_vib_is_good(run):
    status, out = run("verify", make_vib(), "--json")
    report = json.loads(out)
    assert status == 0
    assert report["verdict"] == "good"
    assert (report["id"], report["level"], report["findings"]) == (ID, "partner", [])
    assert report["signer"] == "CN=Signer partner,O=Casemate tests"
    status, out = run("verify", make_vib())
    assert status == 0
    assert out.startswith(f"good  {ID}")


@pytest.mark.usefixtures("trust")
def test_everything_wrong_is_told_at_once(run):
    payloads = {"one": b"1", "two": b"2", "ok": b"3"}
    descriptor = write_descriptor(make_descriptor(payloads=payloads))
    changed = payloads | {"one": b"X", "two": b"Y"}
    data = write_vib(descriptor, shared_pki().sign(descriptor, "community"), changed.items())
    status, out = run("verify", data, "--json")
    report = json.loads(out)
    assert status == 1
    assert report["verdict"] == "bad"
    assert [finding["code"] for finding in report["findings"]] == [
        *("level-not-backed", "payload-changed", "payload-changed")
    ]
    assert all(finding["reason"] and finding["remedy"] for finding in report["findings"])
    status, out = run("verify", data)
    assert status == 1
    assert "level-not-backed" in out
    assert "remedy:" in out


@pytest.mark.usefixtures("trust")
def test_the_host_level_counts(run):
    assert run("verify", make_vib(), "--level", "accepted", "--json")[0] == 1
    assert run("verify", make_vib("certified"), "--level", "certified", "--json")[0] == 0


@pytest.mark.usefixtures("trust")
def test_an_unsigned_community_vib_is_good_on_a_community_host_alone(run):
    descriptor = write_descriptor(make_descriptor("community"))
    data = write_vib(descriptor, b"", PAYLOADS.items())
    status, out = run("verify", data, "--level", "community")
    assert status == 0
    assert "nobody" in out
    assert run("verify", data, "--json")[0] == 1


@pytest.mark.usefixtures("trust")
@pytest.mark.parametrize("action", ["verify", "inspect"])
@pytest.mark.parametrize("data", [b"", b"junk", b"!<arch>\nmore junk"])
def test_a_file_that_is_no_vib_is_bad(run, action, data):
    status, out = run(action, data, "--json")
    report = json.loads(out)
    assert status == 1
    assert report["verdict"] == "bad"
    assert report["id"] == ""
    assert report["findings"][0]["code"].startswith(("ar-", "vib-"))


@pytest.mark.usefixtures("trust")
@pytest.mark.parametrize("action", ["verify", "inspect"])
def test_a_file_that_is_absent_cannot_be_judged(run, action):
    with pytest.raises(HostError) as caught:
        run(action, None)
    assert caught.value.code == "unreadable"


def test_without_anchors_no_signer_can_be_judged(run):
    with pytest.raises(NotFoundError) as caught:
        run("verify", make_vib())
    assert caught.value.code == "no-anchors"


def test_without_anchors_a_changed_descriptor_is_still_bad(run):
    parts = parse_vib(make_vib())
    changed = parts.descriptor_bytes.replace(b"demonstration", b"demonstratiom")
    status, out = run("verify", write_vib(changed, parts.signature, PAYLOADS.items()), "--json")
    assert status == 1
    assert json.loads(out)["findings"][0]["code"] == "descriptor-changed"


def test_inspect_tells_what_it_says_without_judging(run):
    status, out = run("inspect", make_vib(), "--json")
    report = json.loads(out)
    assert status == 0
    assert report["id"] == ID
    assert report["signature"] == "fits the descriptor"
    assert report["claimed_signer"] == "CN=Signer partner,O=Casemate tests"
    assert report["payloads"][0]["checksums"][0]["type"] == "sha-256"
    status, out = run("inspect", make_vib())
    assert status == 0
    assert "CSM_bootbank_demo" in out
    assert "sha-256" in out


def test_what_a_vib_says_cannot_paint_the_terminal(run):
    descriptor = make_descriptor(
        "community", summary="[bold]x[/] \u202egpj.exe", description="[link=x]y[/]"
    )
    data = write_vib(write_descriptor(descriptor), b"", PAYLOADS.items())
    _, out = run("inspect", data)
    assert "[bold]x[/]" in out
    assert "\u202e" not in out
    assert "\\u202e" in out


@pytest.mark.usefixtures("trust")
def test_a_sound_vib_that_no_host_installs_is_good_with_a_warning(run):
    status, out = run("verify", make_vib(), "--json")
    assert status == 0
    assert [one["code"] for one in json.loads(out)["warnings"]] == ["no-archive"]
    assert (
        "warning: Payload demo is of the type tgz and no archive." in run("verify", make_vib())[1]
    )


@pytest.mark.usefixtures("trust")
def test_a_device_in_an_archive_makes_a_vib_bad(run):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("opt/sda")
        info.type, info.devmajor = tarfile.BLKTYPE, 8
        archive.addfile(info)
    status, out = run("verify", make_vib(payloads={"demo": buffer.getvalue()}), "--json")
    assert status == 1
    assert [one["code"] for one in json.loads(out)["findings"]] == ["tar-type"]


@pytest.mark.usefixtures("trust")
def test_every_vib_of_a_bundle_is_judged(run):
    vib = make_vib()
    status, out = run("verify", write_depot([vib], [], vendor="Tests"), "--json")
    report = json.loads(out)
    assert (status, report["verdict"], report["findings"]) == (0, "good", [])
    assert [(one["id"], one["verdict"]) for one in report["vibs"]] == [(ID, "good")]
    descriptor = write_descriptor(make_descriptor())
    unsigned = write_vib(descriptor, b"", PAYLOADS.items())
    status, out = run("verify", write_depot([unsigned], [], vendor="Tests"), "--json")
    report = json.loads(out)
    assert (status, report["verdict"]) == (1, "bad")
    assert report["vibs"][0]["findings"][0]["code"] == "signature-missing"
    status, out = run("verify", write_depot([vib], [], vendor="Tests")[:-30], "--json")
    assert (status, json.loads(out)["findings"][0]["code"]) == (1, "depot-missing")
    status, out = run("verify", write_depot([vib], [], vendor="Tests"))
    assert out.startswith(f"good  {ID}")
