"""The host's smaller systems: services, clock, certificate, modules, packages, logs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from casemate.hostd.objects.base import Getters, Scope, description
from casemate.machine.facts import ComponentFact
from casemate.vim25.values import MoRef, Obj, Value

if TYPE_CHECKING:
    from cryptography import x509

LOGS = {
    "hostd": "The vSphere API of this host",
    "kernel": "The kernel: VMs, TPM, accounts",
    "init": "What was started and stopped",
    "hardening": "The audit of memory hardening, made when it is read: the score, then a line of"
    " JSON for every component, process, platform rule and finding",
    "audit": "Every call that changes something: who, from where, what, with which outcome",
}
"""Logs that can be read, and what they hold."""

LEVELS = {
    "certified": "vmware_certified",
    "accepted": "vmware_accepted",
    "partner": "partner",
    "community": "community",
}
"""Our acceptance levels in the words of the API."""


def service_info(_scope: Scope, _key: str = "") -> Obj:
    """Return HostServiceInfo: there is the API, and nothing else to start or stop."""
    api = Obj(
        "HostService",
        key="hostd",
        label="vSphere API",
        required=True,
        uninstallable=False,
        running=True,
        policy="on",
    )
    return Obj("HostServiceInfo", service=(api,))


def date_time(_scope: Scope, _key: str = "") -> Obj:
    """Return HostDateTimeInfo: hosts count in UTC."""
    zone = Obj("HostDateTimeSystemTimeZone", key="UTC", name="UTC", description="UTC", gmtOffset=0)
    return Obj(
        "HostDateTimeInfo", timeZone=zone, ntpConfig=Obj("HostNtpConfig", server=()), enabled=False
    )


def auto_start(scope: Scope, _key: str = "") -> Obj:
    """Return HostAutoStartManagerConfig: which VMs start with the host."""
    setting = scope.world.autostart
    defaults = setting.defaults
    return Obj(
        "HostAutoStartManagerConfig",
        defaults=Obj(
            "AutoStartDefaults",
            enabled=defaults.enabled,
            startDelay=defaults.start_delay,
            stopDelay=defaults.stop_delay,
            waitForHeartbeat=defaults.wait_for_heartbeat,
            stopAction=defaults.stop_action,
        ),
        powerInfo=tuple(
            Obj(
                "AutoStartPowerInfo",
                key=MoRef("VirtualMachine", entry.vm),
                startOrder=entry.order,
                startDelay=entry.start_delay,
                waitForHeartbeat=entry.wait_for_heartbeat,
                startAction=entry.start_action,
                stopDelay=entry.stop_delay,
                stopAction=entry.stop_action,
            )
            for entry in setting.entries
            if entry.vm in scope.world.vms
        ),
    )


@cache
def _certificate(pem: bytes) -> tuple[x509.Certificate, ...]:
    from cryptography import x509  # noqa: PLC0415  (6 MiB that hostd has no other use for)

    return tuple(x509.load_pem_x509_certificates(pem))


def certificate_info(scope: Scope, _key: str) -> Obj:
    """Return HostCertificateManagerCertificateInfo."""
    pem = scope.world.endpoint.certificate
    if not pem:
        return Obj("HostCertificateManagerCertificateInfo", status="unknown")
    found = _certificate(pem)[0]
    over, soon = found.not_valid_after_utc, (found.not_valid_after_utc - scope.now).days
    status = "good" if soon > 60 else "expiring"  # noqa: PLR2004  (days: what ESXi warns about)
    return Obj(
        "HostCertificateManagerCertificateInfo",
        issuer=found.issuer.rfc4514_string(),
        subject=found.subject.rfc4514_string(),
        notBefore=found.not_valid_before_utc,
        notAfter=over,
        status="expired" if over < scope.now else status,
    )


def payload_modules(scope: Scope) -> tuple[dict[str, Value], ...]:
    """Return what was measured and loaded at boot, in the words of KernelModuleInfo."""
    return tuple(
        {
            "name": fact.file_name.partition(".")[0],
            "version": fact.vib_version,
            "filename": fact.file_name,
            "optionString": "",
            "loaded": True,
            "enabled": True,
        }
        for fact in scope.world.components.values()
        if fact.vib_id
    )


def packages(scope: Scope) -> tuple[Obj, ...]:
    """Return the installed VIBs as SoftwarePackages, from the measured components."""
    vibs: dict[str, list[ComponentFact]] = {}
    for fact in scope.world.components.values():
        if fact.vib_name:
            vibs.setdefault(fact.vib_id or fact.vib_name, []).append(fact)
    return tuple(
        Obj(
            "SoftwarePackage",
            name=parts[0].vib_name,
            version=parts[0].vib_version,
            type="bootbank",
            vendor=parts[0].vib_vendor,
            acceptanceLevel=LEVELS.get(parts[0].acceptance_level, parts[0].acceptance_level),
            summary=parts[0].vib_name,
            description=f"Signed by {parts[0].signer}" if parts[0].signer else "Not signed",
            maintenanceModeRequired=True,
            capability=Obj(
                "SoftwarePackageCapability",
                liveInstallAllowed=False,
                liveRemoveAllowed=False,
                statelessReady=True,
                overlay=False,
            ),
            payload=tuple(part.file_name for part in parts),
        )
        for parts in vibs.values()
    )


def log_descriptors() -> tuple[Value, ...]:
    """Return the DiagnosticManagerLogDescriptors."""
    return tuple(
        Obj(
            "DiagnosticManagerLogDescriptor",
            key=name,
            fileName=f"{name}.log",
            creator="hostd" if name == "hostd" else "vpxa",
            format="plain",
            mimeType="text/plain",
            info=description(about),
        )
        for name, about in LOGS.items()
    )


SYSTEM_GETTERS: Mapping[str, Getters] = {
    "HostServiceSystem": {"serviceInfo": service_info},
    "HostDateTimeSystem": {"dateTimeInfo": date_time},
    "HostCertificateManager": {"certificateInfo": certificate_info},
    "HostPatchManager": {},
    "HostAutoStartManager": {
        "config": auto_start,
    },
}
