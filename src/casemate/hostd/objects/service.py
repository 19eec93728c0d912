"""ServiceInstance and the managers that are the same on every host."""

from __future__ import annotations

from collections.abc import Mapping

from casemate.hostd.objects.base import Getters, Scope, element, recent_tasks
from casemate.hostd.objects.fixed import FIXED_MANAGERS
from casemate.hostd.wellknown import (
    PROPERTY_COLLECTOR,
    ROOT_FOLDER,
    SEARCH_INDEX,
    SESSION_MANAGER,
    TASK_MANAGER,
    VIEW_MANAGER,
)
from casemate.policy.options import MESSAGE
from casemate.vim25 import versions
from casemate.vim25.values import MoRef, Obj, Value

OWN_LIMIT = 100
"""Views, filters and collectors of one session: clients that forget to destroy theirs exist."""

API_VERSION = versions.RELEASES[0]

_CONTENT: Mapping[str, MoRef] = {
    "rootFolder": ROOT_FOLDER,
    "propertyCollector": PROPERTY_COLLECTOR,
    "viewManager": VIEW_MANAGER,
    "setting": MoRef("OptionManager", "HostAgentSettings"),
    "userDirectory": MoRef("UserDirectory", "ha-user-directory"),
    "sessionManager": SESSION_MANAGER,
    "authorizationManager": MoRef("AuthorizationManager", "ha-authmgr"),
    "serviceManager": MoRef("ServiceManager", "ha-servicemanager"),
    "perfManager": MoRef("PerformanceManager", "ha-perfmgr"),
    "eventManager": MoRef("EventManager", "ha-eventmgr"),
    "taskManager": TASK_MANAGER,
    "accountManager": MoRef("HostLocalAccountManager", "ha-localacctmgr"),
    "diagnosticManager": MoRef("DiagnosticManager", "ha-diagnosticmgr"),
    "licenseManager": MoRef("LicenseManager", "ha-license-manager"),
    "searchIndex": SEARCH_INDEX,
    "fileManager": MoRef("FileManager", "ha-nfc-file-manager"),
    "virtualDiskManager": MoRef("VirtualDiskManager", "ha-vdiskmanager"),
    "ovfManager": MoRef("OvfManager", "ha-ovf-manager"),
    **FIXED_MANAGERS,
}
"""The managers, under the ids that they have on every ESXi host."""

MANAGERS = tuple(ref for name, ref in _CONTENT.items() if name != "rootFolder")


def about(scope: Scope) -> Obj:
    """Return AboutInfo: what clients decide by (HostAgent, embeddedEsx), and our own name."""
    host = scope.world.host
    # Clients parse the build as a number.
    build = "".join(filter(str.isdecimal, host.build))[:9] or "0"
    return Obj(
        "AboutInfo",
        name="Casemate",
        fullName=f"Casemate {host.product_version} build-{build}",
        vendor="Casemate",
        version=API_VERSION.rpartition(".")[0],
        build=build,
        localeVersion="INTL",
        localeBuild="000",
        osType="vmnix-x86",
        productLineId="embeddedEsx",
        apiType="HostAgent",
        apiVersion=API_VERSION,
        licenseProductName="Casemate",
        licenseProductVersion=host.product_version,
    )


def content(scope: Scope, _key: str = "") -> Obj:
    """Return ServiceContent."""
    return Obj("ServiceContent", about=about(scope), **_CONTENT)


def _capability(_scope: Scope, _key: str) -> Obj:
    return Obj(
        "Capability",
        provisioningSupported=False,
        multiHostSupported=False,
        userShellAccessSupported=False,
    )


def _evaluation(_scope: Scope, _key: str) -> Obj:
    return Obj("LicenseManagerEvaluationInfo", properties=())


def _licence(_scope: Scope, _key: str) -> Value:
    return (
        Obj(
            "LicenseManagerLicenseInfo",
            licenseKey="00000-00000-00000-00000-00000",
            editionKey="casemate",
            name="Casemate (Apache License 2.0)",
            total=0,
            costUnit="cpuPackage",
        ),
    )


_EVENTS = {
    "VmPoweredOnEvent": "{vm.name} is powered on",
    "VmPoweredOffEvent": "{vm.name} is powered off",
    "VmSuspendedEvent": "{vm.name} is suspended",
    "VmRegisteredEvent": "{vm.name} was registered",
    "VmRemovedEvent": "{vm.name} was removed",
    "VmRenamedEvent": "Renamed {oldName} to {newName}",
    "VmMessageEvent": "{message}",
    "UserLoginSessionEvent": "User {userName}@{ipAddress} logged in",
    "UserLogoutSessionEvent": "User {userName}@{ipAddress} logged out",
    "EventEx": "{message}",
}


def _event_description(_scope: Scope, _key: str) -> Obj:
    return Obj(
        "EventDescription",
        category=(element("info", "Information"), element("error", "Error")),
        eventInfo=tuple(
            Obj(
                "EventDescriptionEventDetail",
                key=key,
                description=key.removesuffix("Event"),
                category="info",
                formatOnDatacenter=text,
                formatOnComputeResource=text,
                formatOnHost=text,
                formatOnVm=text,
                fullFormat=text,
            )
            for key, text in _EVENTS.items()
        ),
    )


_TASK_STATES = ("queued", "running", "success", "error")


def _task_description(_scope: Scope, _key: str) -> Obj:
    return Obj(
        "TaskDescription",
        methodInfo=(element("VirtualMachine.powerOn", "Power on virtual machine"),),
        state=tuple(element(state, state.capitalize()) for state in _TASK_STATES),
        reason=(Obj("TypeDescription", label="User", summary="By a user", key="TaskReasonUser"),),
    )


def _locale(_scope: Scope, _key: str) -> str:
    return "en_US"


def _locales(_scope: Scope, _key: str) -> Value:
    return ("en_US",)


SERVICE_GETTERS: Mapping[str, Getters] = {
    "ServiceInstance": {
        "serverClock": lambda scope, _key: scope.now,
        "capability": _capability,
        "content": content,
    },
    "SessionManager": {
        "sessionList": lambda scope, _key: scope.sessions,
        "currentSession": lambda scope, _key: scope.session,
        "message": lambda scope, _key: scope.world.option(MESSAGE),
        "messageLocaleList": _locales,
        "supportedLocaleList": _locales,
        "defaultLocale": _locale,
    },
    "TaskManager": {
        "recentTask": lambda scope, _key: recent_tasks(scope),
        "description": _task_description,
        "maxCollector": lambda _scope, _key: OWN_LIMIT,
    },
    "EventManager": {
        "description": _event_description,
        "maxCollector": lambda _scope, _key: OWN_LIMIT,
        "latestEvent": lambda scope, _key: scope.latest_event,
    },
    "LicenseManager": {
        "source": lambda _scope, _key: Obj("LocalLicenseSource", licenseKeys=""),
        "sourceAvailable": lambda _scope, _key: True,
        "licensedEdition": lambda _scope, _key: "casemate",
        "licenses": _licence,
        "evaluation": _evaluation,
    },
    "PropertyCollector": {"filter": lambda scope, _key: scope.filters},
    "ViewManager": {"viewList": lambda scope, _key: scope.views},
    "ServiceManager": {"service": lambda *_: ()},
    "SearchIndex": {},
    "FileManager": {},
    "VirtualDiskManager": {},
    "OvfManager": {},
    "HostLocalAccountManager": {},
    "DiagnosticManager": {},
}
