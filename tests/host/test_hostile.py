"""Guests that mean harm, on a booted host: contained, and the host goes on answering."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyVim.connect import Disconnect, SmartConnect
from tests.host.conftest import TestHost

from casemate.testing.hostileguest import HOSTILE_SECTOR

pytestmark = [pytest.mark.host, pytest.mark.guest, pytest.mark.timeout(600)]

MIB = 1 << 20


@contextmanager
def connected(port: int, password: str) -> Iterator[Any]:
    si = SmartConnect(
        host="localhost", port=port, user="root", pwd=password, disableSslCertValidation=True
    )
    try:
        yield si
    finally:
        Disconnect(si)


def test_a_guest_that_floods_serial_port_and_disk_is_contained_and_the_api_answers(
    host: TestHost, built: Path
) -> None:
    told = host.up("--no-demo")
    password = told["password"] or (built / "password").read_text()
    assert host.casemate("vm", "create", "evil", "--disk", "64M", "--memory", "32M")[0] == 0
    place = host.home / "volumes" / "datastore1" / "evil"
    with (place / "evil-flat.vmdk").open("r+b") as stream:
        stream.write(HOSTILE_SECTOR)
    assert host.casemate("vm", "on", "evil")[0] == 0
    with connected(host.port, password) as si:
        (vm,) = si.content.rootFolder.childEntity[0].vmFolder.childEntity
        log = host.home / "run" / "log" / "vm-1-console.log"
        disk = place / "evil-flat.vmdk"
        deadline = time.monotonic() + 150
        # Until it has filled half of its disk, and written to its serial port all the while.
        while disk.stat().st_blocks * 512 < 32 * MIB or log.stat().st_size < 4096:
            assert vm.runtime.powerState == "poweredOn"
            assert si.CurrentTime() is not None
            assert time.monotonic() < deadline, (disk.stat().st_blocks, log.stat().st_size)
            time.sleep(0.05)
    assert log.stat().st_size <= 2 * MIB
    assert disk.stat().st_size == 64 * MIB
    (running,) = host.casemate("status")[1]["vms"]
    resident = Path(f"/proc/{running['pid']}/status").read_text()
    kib = int(next(line for line in resident.splitlines() if line.startswith("VmRSS")).split()[1])
    # Guest memory and what QEMU needs beside it.
    assert kib < (32 + 280) * 1024
    assert host.casemate("vm", "off", "evil")[0] == 0
    assert host.casemate("vm", "destroy", "evil")[0] == 0
    assert not place.exists()
