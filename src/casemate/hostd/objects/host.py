"""The HostSystem."""

from __future__ import annotations

from collections.abc import Mapping

from casemate.hostd.objects import fixed, hardware, network, systems
from casemate.hostd.objects.base import Getters, Scope, entity, flags, moment
from casemate.hostd.objects.governance import option_values
from casemate.hostd.objects.inventory import (
    allocation,
    cpu_capacity,
    datastore_refs,
    network_refs,
    vm_refs,
)
from casemate.hostd.objects.network import NETWORK_GETTERS, network_info
from casemate.hostd.objects.service import about
from casemate.hostd.wellknown import HOST, HOST_BROWSER
from casemate.machine.facts import Allocation, HostFact, PowerState
from casemate.machine.governance import LockdownMode
from casemate.policy.isolation import EMULATED, TCG
from casemate.policy.report import pcr_values
from casemate.vim25.values import MoRef, Obj, Value

MIB = 1 << 20

_JUDGE = "A host does not judge itself: ask a verifier (casemate attest)."

_CONFIG_MANAGER: Mapping[str, MoRef] = {
    "advancedOption": MoRef("OptionManager", "ha-adv-options"),
    "imageConfigManager": MoRef("HostImageConfigManager", "ha-image-config-manager"),
    "kernelModuleSystem": MoRef("HostKernelModuleSystem", "kernelModuleSystem"),
    "datastoreSystem": MoRef("HostDatastoreSystem", "ha-datastoresystem"),
    "networkSystem": MoRef("HostNetworkSystem", "networkSystem"),
    "serviceSystem": MoRef("HostServiceSystem", "serviceSystem"),
    "dateTimeSystem": MoRef("HostDateTimeSystem", "dateTimeSystem"),
    "certificateManager": MoRef("HostCertificateManager", "ha-certificate-manager"),
    "patchManager": MoRef("HostPatchManager", "ha-host-patch-manager"),
    "autoStartManager": MoRef("HostAutoStartManager", "ha-autostart-mgr"),
    "userDirectory": MoRef("UserDirectory", "ha-user-directory"),
    "accountManager": MoRef("HostLocalAccountManager", "ha-localacctmgr"),
    "licenseManager": MoRef("LicenseManager", "ha-license-manager"),
    "hostAccessManager": MoRef("HostAccessManager", "ha-host-access-manager"),
    **fixed.FIXED_SYSTEMS,
}

CONFIG_MANAGERS = tuple(_CONFIG_MANAGER.values())

_CAPABILITIES = (
    "recursiveResourcePoolsSupported",
    "cpuMemoryResourceConfigurationSupported",
    "highGuestMemSupported",
    "maintenanceModeSupported",
    "perVmSwapFiles",
    "tpmSupported",
)


def has_tpm(host: HostFact) -> bool:
    """Tell whether the host was measured into a TPM."""
    return host.tpm_version not in {"", "none"}


def status(scope: Scope, _key: str = "") -> str:
    """Return yellow when something weakens the host's promises (a taint), else green."""
    return "yellow" if scope.world.host.taints else "green"


def runtime(scope: Scope, _key: str = "") -> Obj:
    """Return HostRuntimeInfo."""
    host = scope.world.host
    return Obj(
        "HostRuntimeInfo",
        connectionState="connected",
        powerState="poweredOn",
        standbyMode="none",
        inMaintenanceMode=host.in_maintenance_mode,
        inQuarantineMode=False,
        bootTime=moment(host.boot_time),
        healthSystemRuntime=_NO_SENSORS,
        tpmPcrValues=pcr_values(dict(_bank(scope))),
        networkRuntimeInfo=Obj("HostRuntimeInfoNetworkRuntimeInfo"),
        stateEncryption=_state_encryption(scope.world.host),
    )


_NO_SENSORS = Obj(
    "HealthSystemRuntime",
    systemHealthInfo=Obj("HostSystemHealthInfo", numericSensorInfo=()),
    hardwareStatusInfo=Obj("HostHardwareStatusInfo"),
)
"""This host reads no sensors."""


def _state_encryption(host: HostFact) -> Obj:
    if not host.state_sealed:
        return Obj("HostRuntimeInfoStateEncryptionInfo", protectionMode="none")
    return Obj(
        "HostRuntimeInfoStateEncryptionInfo",
        protectionMode="tpm",
        requireSecureBoot=True,
        requireExecInstalledOnly=host.state_needs_exec_installed_only,
    )


def _bank(scope: Scope) -> tuple[tuple[int, bytes], ...]:
    for bank in scope.world.pcrs:
        if bank.algorithm == "sha256":
            return bank.values
    return ()


def _quick_stats(scope: Scope) -> Obj:
    host = scope.world.host
    running = [vm for vm in scope.world.vms.values() if vm.power is PowerState.POWERED_ON]
    return Obj(
        "HostListSummaryQuickStats",
        overallCpuUsage=sum(vm.cpu_usage_mhz for vm in running),
        overallMemoryUsage=sum(vm.host_memory_mib for vm in running),
        uptime=max(int(scope.now.timestamp() - host.boot_time), 0),
    )


def _attestation(host: HostFact) -> Obj | None:
    if not has_tpm(host):
        return None
    return Obj(
        "HostTpmAttestationInfo",
        time=moment(host.boot_time),
        status="notAccepted",
        message=Obj("LocalizableMessage", key="casemate.attestation.verifier", message=_JUDGE),
    )


def summary(scope: Scope, _key: str = "") -> Obj:
    """Return HostListSummary."""
    host = scope.world.host
    endpoint = scope.world.endpoint
    return Obj(
        "HostListSummary",
        host=HOST,
        hardware=hardware.summary(scope),
        runtime=runtime(scope),
        config=Obj(
            "HostConfigSummary",
            name=host.name,
            port=endpoint.port,
            sslThumbprint=endpoint.thumbprint or None,
            product=about(scope),
            vmotionEnabled=False,
            faultToleranceEnabled=False,
        ),
        quickStats=_quick_stats(scope),
        overallStatus=status(scope),
        rebootRequired=False,
        maintenanceModeRequired=False,
        tpmAttestation=_attestation(host),
    )


def _capability(scope: Scope, _key: str) -> Obj:
    host = scope.world.host
    value = flags(
        "HostCapability",
        *_CAPABILITIES,
        tpmVersion=host.tpm_version if has_tpm(host) else None,
        txtEnabled=host.drtm_type == "intelTxt",
        drtmType=host.drtm_type,
        supportedCpuFeature=(),
        maxSupportedVMs=1024,
        maxRunningVMs=1024,
        maxSupportedVcpus=255,
    )
    # State is sealed where the host is the machine's own system: only there it may end it, and
    # only under Secure Boot the state has opened.
    own = host.state_sealed
    return value.replace(
        tpmSupported=has_tpm(host),
        rebootSupported=own,
        shutdownSupported=own,
        uefiSecureBoot=own,
    )


_DATASTORE_ABILITIES = flags("HostDatastoreSystemCapabilities", "localDatastoreSupported")


def _config(scope: Scope, _key: str) -> Obj:
    return Obj(
        "HostConfigInfo",
        host=HOST,
        product=about(scope),
        hyperThread=fixed.hyper_threads(scope),
        storageDevice=hardware.storage_device(scope),
        multipathState=hardware.path_states(scope),
        fileSystemVolume=hardware.volumes(scope),
        network=network_info(scope),
        vmotion=Obj("HostVMotionInfo"),
        virtualNicManagerInfo=network.virtual_nics(scope),
        datastoreCapabilities=_DATASTORE_ABILITIES,
        service=systems.service_info(scope),
        firewall=fixed.firewall(scope),
        autoStart=systems.auto_start(scope),
        option=option_values(scope, "ha-adv-options"),
        systemResources=_resources(scope),
        dateTimeInfo=systems.date_time(scope),
        flags=Obj("HostFlagInfo", backgroundSnapshotsEnabled=False),
        adminDisabled=scope.world.lockdown.mode is not LockdownMode.DISABLED,
        lockdownMode=scope.world.lockdown.mode.value,
        certificate=scope.world.endpoint.certificate or None,
        pciPassthruInfo=hardware.passthrough(scope),
        authenticationManagerInfo=fixed.authentication(scope),
        powerSystemCapability=fixed.power_capability(scope),
        powerSystemInfo=fixed.power_info(scope),
        wakeOnLanCapable=False,
        graphicsConfig=fixed.graphics(scope),
    )


def _resources(scope: Scope, _key: str = "") -> Obj:
    """Return what the host as a whole may use: everything."""
    host = scope.world.host
    return Obj(
        "HostSystemResourceInfo",
        key="host",
        config=Obj(
            "ResourceConfigSpec",
            cpuAllocation=allocation(Allocation(cpu_capacity(scope), cpu_capacity(scope))),
            memoryAllocation=allocation(
                Allocation(host.memory_size // MIB, host.memory_size // MIB)
            ),
        ),
    )


def _licensable(scope: Scope, _key: str) -> Obj:
    packages = Obj("KeyAnyValue", key="numCpuPackages", value=scope.world.host.cpu_packages)
    return Obj("HostLicensableResourceInfo", resource=(packages,))


def _issues(scope: Scope, _key: str) -> Value:
    """Return what is less than it should be, as a host shows it: as events of warning."""
    host = scope.world.host
    if host.accelerator != TCG:
        return ()
    warning = Obj(
        "GeneralHostWarningEvent",
        key=1,
        chainId=1,
        createdTime=moment(host.boot_time),
        userName="",
        host=Obj("HostEventArgument", name=host.name, host=HOST),
        fullFormattedMessage=f"{EMULATED.reason} {EMULATED.remedy}",
        message=EMULATED.reason,
    )
    return (warning,)


def _vms(scope: Scope, _key: str) -> Value:
    return vm_refs(scope)


HOST_GETTERS: Mapping[str, Getters] = {
    "HostSystem": {
        **entity("HostSystem"),
        "overallStatus": status,
        "configIssue": _issues,
        "runtime": runtime,
        "summary": summary,
        "hardware": hardware.hardware,
        "capability": _capability,
        "licensableResource": _licensable,
        "configManager": lambda *_: Obj("HostConfigManager", **_CONFIG_MANAGER),
        "config": _config,
        "systemResources": _resources,
        "vm": _vms,
        "datastore": datastore_refs,
        "network": network_refs,
        "datastoreBrowser": lambda *_: HOST_BROWSER,
    },
    "HostImageConfigManager": {},
    "HostKernelModuleSystem": {},
    "HostDatastoreSystem": {
        "datastore": datastore_refs,
        "capabilities": lambda *_: _DATASTORE_ABILITIES,
    },
    "HostNetworkSystem": NETWORK_GETTERS,
}
