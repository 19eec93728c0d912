"""What a host's API costs while guests fill their disks and flood their serial ports.

Usage, as root: python bench/hostile.py [--guests N] [--calls N]; boots a host of its own.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from casemate.testing.hostileguest import HOSTILE_SECTOR
from casemate.testing.soapclient import ENVELOPE

COMMAND = Path(sys.executable).parent / "casemate"
DISK = "256M"


def run(home: Path, *arguments: str) -> dict[str, object]:
    ran = subprocess.run(
        [str(COMMAND), "--home", str(home), *arguments, "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(json.loads(ran.stdout)) if ran.stdout.startswith("{") else {}


class Api:
    """One connection with a session."""

    def __init__(self, port: int, password: str) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._connection = http.client.HTTPSConnection("localhost", port, context=context)
        self._headers = {"SOAPAction": "urn:vim25/8.0.3.0"}
        inner = f"<userName>root</userName><password>{password}</password>"
        reply = self.call("Login", "SessionManager", "ha-sessionmgr", inner)
        self._headers["Cookie"] = str(reply.getheader("set-cookie"))

    def call(self, name: str, kind: str, key: str, inner: str = "") -> http.client.HTTPResponse:
        this = f'<_this type="{kind}">{key}</_this>'
        body = ENVELOPE.format(f'<{name} xmlns="urn:vim25">{this}{inner}</{name}>')
        self._connection.request("POST", "/sdk", body, self._headers)
        reply = self._connection.getresponse()
        reply.read()
        assert reply.status == 200, name
        return reply


def measure(api: Api, vm: str, calls: int) -> list[float]:
    """Return milliseconds of reads of a VM and of the host's clock, a hundred a second at most."""
    taken = []
    for number in range(calls):
        began = time.perf_counter()
        if number % 2:
            api.call("CurrentTime", "ServiceInstance", "ServiceInstance")
        else:
            api.call("Fetch", "VirtualMachine", vm, "<prop>summary</prop>")
        taken.append((time.perf_counter() - began) * 1000)
        time.sleep(0.01)
    return sorted(taken)


def told(name: str, taken: list[float]) -> None:
    last = taken[int(len(taken) * 0.99)]
    print(f"{name:<24}{statistics.median(taken):>8.1f}{last:>8.1f}{taken[-1]:>8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--guests", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--calls", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        up = run(home, "up", "--port", "0", "--no-demo")
        try:
            port = int(re.search(r":(\d+)/", str(up["api"]))[1])
            api = Api(port, str(up["password"]))
            vms = []
            for number in range(options.guests):
                made = run(home, "vm", "create", f"evil{number}", "--disk", DISK)
                flat = home / f"volumes/datastore1/evil{number}/evil{number}-flat.vmdk"
                with flat.open("r+b") as stream:
                    stream.write(HOSTILE_SECTOR)
                vms.append(str(made["vm"]))
            print(
                f"{'milliseconds':<24}{'median':>8}{'p99':>8}{'worst':>8}   ({options.calls} calls)"
            )
            told("quiet", measure(api, vms[0], options.calls))
            for vm in vms:
                run(home, "vm", "on", vm)
            time.sleep(3)
            told(f"{options.guests} hostile guests", measure(api, vms[0], options.calls))
            for number, vm in enumerate(vms):
                flat = home / f"volumes/datastore1/evil{number}/evil{number}-flat.vmdk"
                logs = sum(f.stat().st_size for f in (home / "run/log").glob(f"vm-{vm}-*"))
                print(
                    f"VM {vm}: disk {flat.stat().st_blocks >> 11} MiB, serial log {logs >> 10} KiB"
                )
        finally:
            run(home, "down", "--force")


if __name__ == "__main__":
    main()
