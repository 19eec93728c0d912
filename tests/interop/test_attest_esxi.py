"""``casemate attest --esxi``: a vSphere attestation report fetched by pyVmomi, and judged."""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from casemate.cli import attest
from casemate.errors import ArgumentError, FormatError, HostError, LoginError, NotFoundError
from casemate.testing.bootproof import measured_boot
from casemate.testing.fakekernel import PASSWORD, USER, FakeKernel
from casemate.testing.hostsimulator import HostSimulator
from casemate.verifier import esxi

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _what_pyvmomi_leaves() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="module")
def simulator() -> Iterator[HostSimulator]:
    with HostSimulator(FakeKernel(proof=measured_boot())).running() as running:
        yield running


class Shell:
    def __init__(self, simulator: HostSimulator, place: Path, capsys: Any) -> None:
        self._place, self._capsys = place, capsys
        ca = place / "ca.pem"
        ca.write_bytes(simulator.certificate)
        self._words = ["attest", f"127.0.0.1:{simulator.port}", "--esxi", "--user", USER]
        self.ca = ["--ca", str(ca)]

    def __call__(self, *more: str, trusting: bool = True) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        attest.add_parser(parser.add_subparsers())
        words = [*self._words, *(self.ca if trusting else []), *more]
        options = parser.parse_args(words)
        return options.func(options), self._capsys.readouterr().out


@pytest.fixture
def shell(
    simulator: HostSimulator,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    monkeypatch.setenv("CASEMATE_ESXI_PASSWORD", PASSWORD)
    return Shell(simulator, tmp_path, capsys)


def test_a_report_is_shown_and_never_called_trusted(shell: Shell, tmp_path: Path) -> None:
    saved = tmp_path / "report.json"
    status, out = shell("--json", "--save", str(saved))
    told = json.loads(out)
    assert (status, told["verdict"], told["findings"]) == (2, "undecided", [])
    assert told["reliable"]
    assert any(event["vib"] for event in told["events"])
    status, out = shell("--against", str(saved))
    assert status == 2
    assert "nothing proves it" in out


def test_what_changed_since_an_earlier_report_is_named(shell: Shell, tmp_path: Path) -> None:
    saved = tmp_path / "report.json"
    shell("--json", "--save", str(saved))
    value = json.loads(saved.read_text())
    first, second = [event for event in value["events"] if event["vib"]][:2]
    first["digest"] = "00" * 32
    second["name"] = "gone.v00"
    saved.write_text(json.dumps(value))
    status, out = shell("--json", "--against", str(saved))
    codes = sorted(one["code"] for one in json.loads(out)["findings"])
    assert (status, codes) == (1, ["component-added", "component-changed", "component-removed"])
    saved.write_text("{}")
    with pytest.raises(ArgumentError):
        shell("--against", str(saved))


def test_a_report_that_contradicts_itself_refutes_the_host(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = esxi.report_of

    def without_last(found: Any) -> Any:
        report = whole(found)
        return replace(report, events=report.events[:-1])

    monkeypatch.setattr(esxi, "report_of", without_last)
    status, out = shell()
    assert status == 1
    assert "replay-mismatch" in out


def test_strangers_wrong_accounts_and_wrong_names_are_refused(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HostError):
        shell(trusting=False)
    with pytest.raises(NotFoundError):
        shell("--name", "another")
    monkeypatch.setenv("CASEMATE_ESXI_PASSWORD", "wrong")
    with pytest.raises(LoginError):
        shell()


def test_a_saved_soap_answer_is_judged_without_asking_anybody(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CASEMATE_ESXI_PASSWORD")
    first, second = (hashlib.sha256(word).digest() for word in (b"k.b00", b"sb.v00"))
    value = hashlib.sha256(hashlib.sha256(bytes(32) + first).digest() + second).digest()

    def numbers(name: str, data: bytes) -> str:
        return "".join(f"<{name}>{one - 256 if one > 127 else one}</{name}>" for one in data)

    def event(name: str, data: bytes) -> str:
        return (
            "<tpmEvents><pcrIndex>19</pcrIndex><eventDetails "
            'xsi:type="HostTpmSoftwareComponentEventDetails">'
            + numbers("dataHash", data)
            + f"<dataHashMethod>SHA256</dataHashMethod><componentName>{name}</componentName>"
            "<vibName>esx-base</vibName><vibVersion>6.7.0</vibVersion><vibVendor>VMware</vibVendor>"
            "</eventDetails></tpmEvents>"
        )

    def answer(events: str) -> bytes:
        return (
            '<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope '
            'xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
            'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>'
            '<QueryTpmAttestationReportResponse xmlns="urn:vim25"><returnval><tpmPcrValues>'
            f"<digestMethod>SHA256</digestMethod>{numbers('digestValue', value)}"
            "<objectName>PCR 19</objectName><pcrNumber>19</pcrNumber></tpmPcrValues>"
            f"{events}<tpmLogReliable>true</tpmLogReliable></returnval>"
            "</QueryTpmAttestationReportResponse></soapenv:Body></soapenv:Envelope>"
        ).encode()

    saved = tmp_path / "answer.xml"
    saved.write_bytes(answer(event("k.b00", first) + event("sb.v00", second)))
    status, out = shell("--json", "--report", str(saved))
    told = json.loads(out)
    assert (status, told["findings"]) == (2, [])
    assert told["events"][1]["vib"] == "esx-base 6.7.0 VMware"
    saved.write_bytes(answer(event("k.b00", first)))
    status, out = shell("--json", "--report", str(saved))
    assert (status, json.loads(out)["findings"][0]["code"]) == (1, "replay-mismatch")
    for wrong in (b"<a/>", b"no xml", answer("<tpmEvents/>")):
        saved.write_bytes(wrong)
        with pytest.raises(FormatError):
            shell("--report", str(saved))
