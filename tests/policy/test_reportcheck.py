"""A vSphere report is checked against itself and against the quoted log."""

from __future__ import annotations

from dataclasses import replace

import pytest

from casemate.errors import FormatError
from casemate.formats.eventlog import parse, replay
from casemate.policy.report import attestation_report
from casemate.policy.reportcheck import (
    OLD_EMPTY_SIZE,
    ReportPcr,
    check_report,
    check_report_against_log,
    report_from,
    unsigned,
)
from casemate.testing.expect import codes
from casemate.testing.smallhost import SmallHost
from casemate.vim25.values import Obj

HOST = SmallHost()
LOG = parse(HOST.log_bytes())
VALUES = HOST.tpm.values()["sha256"]
SHOWN = attestation_report(HOST.log_bytes(), VALUES, {}, complete=True)
REPORT = report_from(SHOWN)


def test_our_own_report_agrees_with_itself_and_with_the_log() -> None:
    assert REPORT.reliable
    assert replay(LOG)["sha256"][12] == VALUES[12]
    assert check_report(REPORT) == ()
    assert check_report_against_log(REPORT, LOG, VALUES, "sha256") == ()


def test_a_report_that_hides_or_adds_something_differs_from_the_log() -> None:
    hidden = replace(REPORT, events=REPORT.events[:-1])
    pcr = REPORT.events[-1].pcr
    (finding,) = check_report_against_log(hidden, LOG, VALUES, "sha256")
    assert (finding.code, finding.component) == ("report-differs", f"PCR {pcr}")
    values = tuple(replace(row, value=bytes(32)) if row.pcr == 12 else row for row in REPORT.pcrs)
    lied = replace(REPORT, pcrs=values)
    assert codes(check_report(lied)) == {"replay-mismatch"}
    assert codes(check_report_against_log(lied, LOG, VALUES, "sha256")) == {"report-differs"}


def test_events_without_a_value_and_values_of_odd_size_are_found() -> None:
    without = replace(REPORT, pcrs=tuple(row for row in REPORT.pcrs if row.pcr != 12))
    assert codes(check_report(without)) == {"replay-mismatch"}
    odd = replace(REPORT, pcrs=(ReportPcr(0, "SHA256", b"x"),), events=())
    assert codes(check_report(odd)) == {"bank-mismatch"}
    old = replace(REPORT, pcrs=(ReportPcr(0, "SHA1", bytes(OLD_EMPTY_SIZE)),), events=())
    assert check_report(old) == ()


def test_signed_bytes_are_bytes() -> None:
    assert unsigned([-1, -128, 0, 127]) == b"\xff\x80\x00\x7f"
    signed = SHOWN.replace(
        tpmPcrValues=tuple(
            Obj(
                "HostTpmDigestInfo",
                digestMethod="SHA256",
                digestValue=tuple(b - 256 if b > 127 else b for b in row.value),
                objectName="x",
                pcrNumber=row.pcr,
            )
            for row in REPORT.pcrs
        )
    )
    assert report_from(signed) == REPORT


@pytest.mark.parametrize(
    "value",
    [
        Obj("HostTpmAttestationReport", tpmPcrValues=5),
        Obj("HostTpmAttestationReport", tpmEvents=(1,)),
        Obj("HostTpmAttestationReport", tpmPcrValues=(Obj("HostTpmDigestInfo"),)),
        Obj("HostTpmAttestationReport", tpmEvents=(Obj("HostTpmEventLogEntry", pcrIndex=1),)),
    ],
)
def test_a_report_of_another_shape_is_refused(value: Obj) -> None:
    with pytest.raises(FormatError) as caught:
        report_from(value)
    assert caught.value.code == "report-malformed"
