"""Systems of a host that have one answer here: power, firewall, authentication, and the like.

Clients read them whatever the host is. Each says what is true of this host; what there is nothing
to say about is unset.
"""

from __future__ import annotations

from collections.abc import Mapping

from casemate.hostd.objects import network
from casemate.hostd.objects.base import Getter, Getters, Scope
from casemate.hostd.wellknown import PASSTHROUGH_SYSTEM, STORAGE_SYSTEM
from casemate.vim25 import hidden
from casemate.vim25.values import MoRef, Obj, Value

EXECUTER = MoRef(hidden.EXECUTER, "ha-managed-method-executer")
TYPE_MANAGER = MoRef(hidden.TYPE_MANAGER, "ha-dynamic-type-manager")
LOCAL_ACCOUNTS = MoRef("HostLocalAuthentication", "ha-local-authentication")

GUEST_MANAGERS: Mapping[str, MoRef] = {
    "authManager": MoRef("GuestAuthManager", "ha-guest-operations-manager-auth"),
    "fileManager": MoRef("GuestFileManager", "ha-guest-operations-manager-file"),
    "processManager": MoRef("GuestProcessManager", "ha-guest-operations-manager-process"),
}
"""There so that clients are told what this host does not do: none of their methods is served."""

FIXED_SYSTEMS: Mapping[str, MoRef] = {
    "storageSystem": STORAGE_SYSTEM,
    "firewallSystem": MoRef("HostFirewallSystem", "firewallSystem"),
    "powerSystem": MoRef("HostPowerSystem", "ha-power-system"),
    "snmpSystem": MoRef("HostSnmpSystem", "ha-snmp-agent"),
    "vmotionSystem": MoRef("HostVMotionSystem", "ha-vmotion-system"),
    "virtualNicManager": MoRef("HostVirtualNicManager", "ha-vnic-mgr"),
    "healthStatusSystem": MoRef("HostHealthStatusSystem", "healthStatusSystem"),
    "pciPassthruSystem": PASSTHROUGH_SYSTEM,
    "diagnosticSystem": MoRef("HostDiagnosticSystem", "diagnosticsystem"),
    "firmwareSystem": MoRef("HostFirmwareSystem", "ha-firmwareSystem"),
    "bootDeviceSystem": MoRef("HostBootDeviceSystem", "ha-boot-device-system"),
    "cpuScheduler": MoRef("HostCpuSchedulerSystem", "cpuSchedulerSystem"),
    "memoryManager": MoRef("HostMemorySystem", "memoryManagerSystem"),
    "authenticationManager": MoRef("HostAuthenticationManager", "ha-auth-manager"),
    "graphicsManager": MoRef("HostGraphicsManager", "ha-graphics-manager"),
    "cacheConfigurationManager": MoRef("HostCacheConfigurationManager", "ha-cache-manager"),
    "iscsiManager": MoRef("IscsiManager", "ha-iscsi-manager"),
}
"""Systems of the host's configManager that only show something."""

FIXED_MANAGERS: Mapping[str, MoRef] = {
    "guestOperationsManager": MoRef("GuestOperationsManager", "ha-guest-operations-manager"),
    "localizationManager": MoRef("LocalizationManager", "ha-l10n-manager"),
    "storageResourceManager": MoRef("StorageResourceManager", "ha-storage-resource-manager"),
    "datastoreNamespaceManager": MoRef(
        "DatastoreNamespaceManager", "ha-datastore-namespace-manager"
    ),
    "dvSwitchManager": MoRef("DistributedVirtualSwitchManager", "ha-dvsmanager"),
    "vStorageObjectManager": MoRef("HostVStorageObjectManager", "ha-vstorage-object-manager"),
    "cryptoManager": MoRef("CryptoManagerHost", "ha-crypto-manager"),
}
"""Managers of the service content that only show something."""

_POLICY = Obj(
    "HostPowerPolicy",
    key=1,
    name="PowerPolicy.static.name",
    shortName="static",
    description="The processors' frequency is left to the machine underneath.",
)


def power_capability(_scope: Scope, _key: str = "") -> Obj:
    """Return PowerSystemCapability."""
    return Obj("PowerSystemCapability", availablePolicy=(_POLICY,))


def power_info(_scope: Scope, _key: str = "") -> Obj:
    """Return PowerSystemInfo."""
    return Obj("PowerSystemInfo", currentPolicy=_POLICY)


def firewall(scope: Scope, _key: str = "") -> Obj:
    """Return HostFirewallInfo: one port is open; packets are filtered underneath."""
    rule = Obj(
        "HostFirewallRule",
        port=scope.world.endpoint.port,
        direction="inbound",
        portType="dst",
        protocol="tcp",
    )
    return Obj(
        "HostFirewallInfo",
        defaultPolicy=Obj(
            "HostFirewallDefaultPolicy", incomingBlocked=False, outgoingBlocked=False
        ),
        ruleset=(
            Obj(
                "HostFirewallRuleset",
                key="vSphereClient",
                label="vSphere API",
                required=True,
                rule=(rule,),
                service="hostd",
                enabled=True,
                allowedHosts=Obj("HostFirewallRulesetIpList", allIp=True),
            ),
        ),
    )


def authentication(_scope: Scope, _key: str = "") -> Obj:
    """Return HostAuthenticationManagerInfo: local accounts."""
    return Obj(
        "HostAuthenticationManagerInfo",
        authConfig=(Obj("HostLocalAuthenticationInfo", enabled=True),),
    )


def hyper_threads(scope: Scope, _key: str = "") -> Obj:
    """Return HostHyperThreadScheduleInfo."""
    host = scope.world.host
    several = host.cpu_threads > host.cpu_cores
    return Obj("HostHyperThreadScheduleInfo", available=several, active=several, config=True)


def graphics(_scope: Scope, _key: str = "") -> Obj:
    """Return HostGraphicsConfig."""
    return Obj(
        "HostGraphicsConfig",
        hostDefaultGraphicsType="shared",
        sharedPassthruAssignmentPolicy="performance",
    )


def _snmp(_scope: Scope, _key: str) -> Value:
    return Obj("HostSnmpConfigSpec", enabled=False, port=161)


def _snmp_limits(_scope: Scope, _key: str) -> Value:
    return Obj(
        "HostSnmpSystemAgentLimits",
        maxReadOnlyCommunities=0,
        maxTrapDestinations=0,
        maxCommunityLength=0,
        maxBufferSize=0,
        capability="COMPLETE",
    )


def _always(value: Value) -> Getter:
    return lambda _scope, _key: value


FIXED_GETTERS: Mapping[str, Getters] = {
    "HostFirewallSystem": {"firewallInfo": firewall},
    "HostPowerSystem": {"capability": power_capability, "info": power_info},
    "HostSnmpSystem": {"configuration": _snmp, "limits": _snmp_limits},
    "HostCpuSchedulerSystem": {"hyperthreadInfo": hyper_threads},
    "HostAuthenticationManager": {
        "info": authentication,
        "supportedStore": lambda *_: (LOCAL_ACCOUNTS,),
    },
    "HostLocalAuthentication": {
        "info": lambda *_: Obj("HostLocalAuthenticationInfo", enabled=True),
    },
    "HostVirtualNicManager": {"info": network.virtual_nics},
    "HostGraphicsManager": {"graphicsConfig": graphics},
    "GuestOperationsManager": {name: _always(ref) for name, ref in GUEST_MANAGERS.items()},
    "CryptoManagerHost": {"enabled": lambda *_: False},
}
