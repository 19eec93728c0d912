"""``QueryTpmAttestationReport`` of an ESXi host, taken from it or from its vCenter by pyVmomi.

The report has no nonce and no signature, and whoever answers vouches for it: it can refute a host,
or show what changed since an earlier report, but never prove that a host is good.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from casemate.errors import (
    ArgumentError,
    Finding,
    FormatError,
    HostError,
    LoginError,
    NotFoundError,
    NotSupportedError,
)
from casemate.formats.text import escape
from casemate.policy.reportcheck import Report, ReportEvent, ReportPcr, check_report, unsigned

MAX_HOSTS: Final = 10_000
"""Hosts of one vCenter that are looked through."""
MAX_NAME: Final = 512
_REMEDY: Final = "Look at what was changed on the host since; save a new report if it was wanted."


@dataclass(frozen=True, slots=True)
class EsxiReport:
    """A report, the host's name, and what the host or vCenter itself says of its TPM."""

    host: str
    report: Report
    status: str
    message: str


@dataclass(frozen=True, slots=True)
class Account:
    """How to log in; ``ca`` None: the system's trust anchors vouch for the host."""

    user: str
    password: str
    ca: Path | None = None


def fetch(address: str, port: int, account: Account, name: str = "") -> EsxiReport:
    """Ask an ESXi host, or a vCenter for its host ``name``.

    Raises:
        HostError: it does not answer, or not as vSphere does.
        LoginError: the account is refused.
        NotFoundError: there is no such host, or several and no name was given.
        NotSupportedError: the host has no TPM, or its report is empty.
    """
    from pyVim import connect  # noqa: PLC0415  # half a second, for few
    from pyVmomi import vim, vmodl  # noqa: PLC0415

    login: Any = connect.SmartConnect
    logout: Any = connect.Disconnect
    context = ssl.create_default_context(cafile=str(account.ca) if account.ca else None)
    try:
        instance = login(
            host=address,
            port=port,
            user=account.user,
            pwd=account.password,
            sslContext=context,
        )
    except vim.fault.InvalidLogin as error:
        raise LoginError("the host refuses user or password", component=address) from error
    except (OSError, vmodl.MethodFault, vim.fault.VimFault) as error:
        raise _unreachable(address, error) from error
    try:
        content = instance.RetrieveContent()
        view = content.viewManager.CreateContainerView(
            content.rootFolder, [vim.HostSystem], recursive=True
        )
        host = _chosen(list(view.view)[:MAX_HOSTS], name, address)
        info = host.summary.tpmAttestation
        found = host.QueryTpmAttestationReport()
        if found is None:
            raise NotSupportedError(
                "the host has no attestation report",
                code="tpm-missing",
                component=str(host.name),
                remedy="Enable a TPM 2.0 in its firmware, and Secure Boot.",
            )
        return EsxiReport(
            escape(str(host.name))[:MAX_NAME],
            report_of(found),
            str(info.status) if info else "",
            escape(info.message.message)[:MAX_NAME] if info and info.message else "",
        )
    except (OSError, vmodl.MethodFault, vim.fault.VimFault) as error:
        raise _unreachable(address, error) from error
    finally:
        logout(instance)
        instance._stub.DropConnections()  # noqa: SLF001  # else they stay open until collected


def _unreachable(address: str, error: Exception) -> HostError:
    words = getattr(error, "msg", None) or str(error) or type(error).__name__
    return HostError(
        f"{address} does not answer as vSphere does: {escape(str(words))[:MAX_NAME]}",
        code="unreachable",
        component=address,
        remedy="Check address, account and its right System.Read, and the certificate with --ca.",
    )


def _chosen(hosts: Sequence[Any], name: str, address: str) -> Any:  # noqa: ANN401  # pyVmomi's
    if not name and len(hosts) == 1:
        return hosts[0]
    hits = [host for host in hosts if name and str(host.name) == name]
    if len(hits) != 1:
        raise NotFoundError(
            f"{address} knows {len(hosts)} hosts, {len(hits)} of them named {name!r}",
            component=address,
            remedy="Name one with --name, as its inventory does.",
        )
    return hits[0]


def report_of(found: Any) -> Report:  # noqa: ANN401  # pyVmomi makes its classes on demand
    """Return pyVmomi's HostTpmAttestationReport as a value. Raises FormatError."""
    try:
        return Report(
            tuple(
                ReportPcr(int(row.pcrNumber), str(row.digestMethod), _bytes(row.digestValue))
                for row in found.tpmPcrValues
            ),
            tuple(_event(row) for row in found.tpmEvents),
            found.tpmLogReliable is True,
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"attestation report: {type(error).__name__}",
            code="report-malformed",
            component="attestation report",
        ) from error


def _event(row: Any) -> ReportEvent:  # noqa: ANN401
    details = row.eventDetails
    vib = " ".join(
        str(getattr(details, key, "") or "") for key in ("vibName", "vibVersion", "vibVendor")
    )
    return ReportEvent(
        int(row.pcrIndex),
        str(getattr(details, "dataHashMethod", "") or ""),
        _bytes(details.dataHash),
        escape(_name(details))[:MAX_NAME],
        escape(vib.strip())[:MAX_NAME],
    )


def _name(details: Any) -> str:  # noqa: ANN401
    for key in ("componentName", "commandLine", "bootSecurityOption", "optionsFileName"):
        value = getattr(details, key, None)
        if value:
            return str(value)
    return type(details).__name__.rpartition(".")[2].removeprefix("HostTpm")


def _bytes(value: Iterable[int] | bytes) -> bytes:
    return bytes(value) if isinstance(value, bytes) else unsigned(value)


def as_json(found: EsxiReport) -> dict[str, Any]:
    """Return a report as it is printed and kept for later comparison."""
    return {
        "host": found.host,
        "status": found.status,
        "message": found.message,
        "reliable": found.report.reliable,
        "pcrs": [
            {"pcr": row.pcr, "method": row.method, "value": row.value.hex()}
            for row in found.report.pcrs
        ],
        "events": [
            {
                "pcr": event.pcr,
                "method": event.method,
                "digest": event.digest.hex(),
                "name": event.name,
                "vib": event.vib,
            }
            for event in found.report.events
        ],
    }


def events_from(value: Mapping[str, Any]) -> tuple[ReportEvent, ...]:
    """Return the events of a report that ``as_json`` wrote. Raises ArgumentError."""
    try:
        return tuple(
            ReportEvent(
                int(one["pcr"]),
                str(one["method"]),
                bytes.fromhex(one["digest"]),
                str(one["name"]),
                str(one["vib"]),
            )
            for one in value["events"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArgumentError("that is no saved report", argument="against") from error


def appraise_report(
    report: Report, before: Sequence[ReportEvent] | None = None
) -> tuple[Finding, ...]:
    """Check a report against itself and, where there is one, against an earlier report.

    Codes: those of ``check_report``; ``component-added``, ``component-removed``,
    ``component-changed``.
    """
    findings = list(check_report(report))
    if before is None:
        return tuple(findings)
    was, now = Counter(before), Counter(report.events)
    gone, new = list((was - now).elements()), list((now - was).elements())
    changed = {(one.pcr, one.name) for one in gone} & {(one.pcr, one.name) for one in new}
    for one in (*gone, *new):
        key = (one.pcr, one.name)
        about = f"{one.name} ({one.vib})" if one.vib else one.name
        if key in changed:
            if one in new:
                continue
            after = next(x for x in new if (x.pcr, x.name) == key)
            reason = f"{about} in PCR {one.pcr} was {one.digest.hex()}, is {after.digest.hex()}"
            findings.append(Finding("component-changed", one.name, reason, _REMEDY))
        else:
            code = "component-removed" if one in gone else "component-added"
            word = "no longer measured" if one in gone else "new"
            reason = f"{about} is {word} in PCR {one.pcr}"
            findings.append(Finding(code, one.name, reason, _REMEDY))
    return tuple(findings)
