"""Pools, entitlements and devices of a whole host, by the command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.host.conftest import TestHost

from casemate.cli.main import main

pytestmark = [pytest.mark.host, pytest.mark.guest, pytest.mark.timeout(600)]


def until(value: Callable[[], Any], seconds: float = 200) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := value()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.2)
    return found


def casemate(host: TestHost, *arguments: str) -> tuple[int, Any]:
    """Run a command in this process: starting one for each of them takes longer than its work."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        status = main(["--home", str(host.home), *arguments, "--json"])
    host.output = told.getvalue()
    return status, json.loads(host.output)


def pools(host: TestHost) -> dict[str, Any]:
    return {pool["name"]: pool for pool in casemate(host, "pool", "list")[1]}


def test_a_tree_of_pools_is_made_explained_tried_and_outlives_the_kernel(host: TestHost) -> None:
    host.up()
    assert casemate(host, "pool", "create", "web", "--cpu-reservation", "500")[0] == 0
    assert (
        casemate(host, "pool", "create", "front", "--parent", "web", "--cpu-limit", "900")[0] == 0
    )
    assert casemate(host, "pool", "move", "demo", "/web/front")[0] == 0
    assert casemate(host, "pool", "create", "web")[0] == 2, "the name is taken"
    assert casemate(host, "pool", "create", "much", "--cpu-reservation", "99999999")[0] == 2
    assert "can still be reserved" in host.output

    told = until(lambda: casemate(host, "pool", "explain", "demo")[1])
    steps = told["reasons"][0]["steps"]
    assert [step["node"] for step in steps][-1] == told["node"]
    assert len(steps) == 3
    assert told["reasons"][0]["static"] <= 900, "the limit of the pool above counts"
    assert until(lambda: casemate(host, "pool", "explain", "demo")[1]["decisions"])

    assert casemate(host, "pool", "what-if", "power-off", "demo")[0] == 0
    status, told = casemate(host, "pool", "what-if", "set", "web", "--cpu-reservation", "99999999")
    assert status == 1
    refusal = told["outcomes"][0]["refusal"]
    assert refusal["fault"] == "InsufficientHostCpuCapacityFault"
    assert pools(host)["web"]["cpu"]["reservation"] == 500

    assert casemate(host, "pool", "set", "demo", "--memory-reservation", "64")[0] == 0
    reserved = pools(host)["front"]["memory_usage"]["reservation_used_for_vm"]
    assert reserved > 64 << 20, "with its overhead"

    before = pools(host)
    os.kill(host.child("casemate.kernel.enter kernel"), signal.SIGKILL)
    until(lambda: casemate(host, "pool", "list")[0] == 0)
    after = pools(host)
    assert {name: pool["parent"] for name, pool in after.items()} == {
        name: pool["parent"] for name, pool in before.items()
    }
    (vm,) = until(lambda: casemate(host, "top", "--once")[1]["vms"])
    assert vm["pool"] == after["front"]["pool"]
    until(lambda: casemate(host, "top", "--once")[1]["vms"][0]["weight"] > 0)
    assert casemate(host, "pool", "remove", "front")[0] == 0
    assert casemate(host, "top", "--once")[1]["vms"][0]["pool"] == after["web"]["pool"]

    devices = casemate(host, "hardware", "list")[1]
    assert devices["numa"]
    if not devices["iommu"] and devices["pci"]:
        address = devices["pci"][0]["address"]
        status, told = casemate(host, "hardware", "passthrough", address)
        assert status == 2
        assert told["error"]["code"] == "no-iommu"
