"""Which of govc's commands send only what this host serves, as each was seen to send."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from casemate.hostd.methods.table import REGISTRY
from casemate.hostd.registry import VCENTER_ONLY, Ring

CALL = re.compile(r"^ +\w+\.(\w+)\(")
GOAL = 151
"""Commands: more than these have to work."""
REFUSED = {
    "CloneVM_Task": "NotSupported",
    "CreateClusterEx": "NotSupported",
    "CreateDVS_Task": "NotSupported",
    "DisconnectHost_Task": "NotSupported",
    "ReconnectHost_Task": "NotSupported",
    "RelocateVM_Task": "NotSupported",
    "UpdateDateTimeConfig": "NotSupported",
    "AcquireCloneTicket": "ring C",
    "CreateLocalDatastore": "ring C",
    "RemoveDatastore": "ring C",
    "DatastoreEnterMaintenanceMode": "MethodNotFound",
    "DecodeLicense": "MethodNotFound",
    "EnableMethods": "MethodNotFound",
    "ListProcessesInGuest": "MethodNotFound",
    "MountToolsInstaller": "MethodNotFound",
    "RetrieveDiskPartitionInfo": "MethodNotFound",
    "SelectVnicForNicType": "MethodNotFound",
    "UpdateCounterLevelMapping": "MethodNotFound",
    "UpdateLicense": "MethodNotFound",
}
"""The first method of a command that is not served, and why."""


@pytest.fixture(scope="module")
def commands(corpus: Path) -> dict[str, list[str]]:
    """The methods that each command sends."""
    file = corpus / "vim" / "govc-methods.txt"
    if not file.exists():
        pytest.skip("public corpus absent: vim/govc-methods.txt")
    found: dict[str, list[str]] = {}
    for line in file.read_text().splitlines():
        if line.startswith("## "):
            name = line.split()[1]
            found[name] = []
        elif (call := CALL.match(line)) is not None:
            found[name].append(call[1])
    return {name: methods for name, methods in found.items() if methods}


def verdict(method: str) -> str:
    """What a client hears of a method: empty if it is served."""
    served = REGISTRY.get(method)
    if served is None:
        return "NotSupported" if method in VCENTER_ONLY else "MethodNotFound"
    if served.ring is Ring.COMPATIBILITY:
        return "ring C"
    return "NotSupported" if served.lacking else ""


def test_more_of_govc_s_commands_are_served_than_asked_for(
    commands: dict[str, list[str]],
) -> None:
    served = [name for name, methods in commands.items() if not any(map(verdict, methods))]
    assert (len(served), len(commands)) == (178, 198)
    assert len(served) > GOAL


def test_the_others_are_refused_for_a_known_method(commands: dict[str, list[str]]) -> None:
    stops = {
        next(method for method in methods if verdict(method))
        for methods in commands.values()
        if any(map(verdict, methods))
    }
    assert {method: verdict(method) for method in stops} == REFUSED
