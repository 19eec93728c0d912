"""A libvirtd of our own to measure beside: in namespaces of its own, ended by its pid.

It sees empty directories where its state, sockets and logs would be, makes no control groups, and
runs QEMU as root without any of its own confinement (no security driver, no mount namespaces): the
least that libvirt does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DAEMON = Path("/usr/sbin/libvirtd")
_SECONDS = 20.0
_SCRIPT = """set -e
for place in /run /var/lib/libvirt /var/cache/libvirt /var/log /etc/libvirt; do
    mount -t tmpfs none $place
done
mkdir -p /run/libvirt /var/lib/libvirt/qemu
{ cat /etc/passwd; echo 'libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin'; } > /run/passwd
{ cat /etc/group; echo 'libvirt-qemu:x:64055:'; } > /run/group
mount --bind /run/passwd /etc/passwd
mount --bind /run/group /etc/group
printf 'unix_sock_dir = "/run/libvirt"\\nauth_unix_rw = "none"\\n' > /etc/libvirt/libvirtd.conf
printf 'log_outputs = "4:stderr"\\n' >> /etc/libvirt/libvirtd.conf
printf 'user = "root"\\ngroup = "root"\\nsecurity_driver = "none"\\n' > /etc/libvirt/qemu.conf
printf 'cgroup_controllers = []\\nnamespaces = []\\nremember_owner = 0\\n' >> /etc/libvirt/qemu.conf
printf 'stdio_handler = "file"\\n' >> /etc/libvirt/qemu.conf
ip link set lo up
exec /usr/sbin/libvirtd -f /etc/libvirt/libvirtd.conf
"""


def domain(name: str, memory_mib: int, devices: str = "", boot: str = "") -> str:
    """Return the XML of a domain; ``boot`` stands in <os>, ``devices`` among the devices."""
    return (
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>{memory_mib}</memory>"
        f"<vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type>{boot}</os>"
        "<cpu mode='maximum'/>"
        f"<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}</devices></domain>"
    )


class Libvirt:
    """A running daemon; ``pid`` is its process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._words = ["nsenter", "-t", str(pid), "-m", "-n", "virsh", "-q", "-c", "qemu:///system"]

    def say(self, *words: str) -> str:
        """Run a command of virsh and return what it prints. Raises SystemExit where it fails."""
        ran = subprocess.run(
            [*self._words, *words], check=False, capture_output=True, text=True, timeout=60
        )
        if ran.returncode:
            raise SystemExit(ran.stderr)
        return ran.stdout

    def create(self, place: Path, name: str, xml: str) -> float:
        """Start a domain and return the seconds that it took, virsh's own among them."""
        file = place / f"{name}.xml"
        file.write_text(xml)
        begin = time.perf_counter()
        self.say("create", str(file))
        return time.perf_counter() - begin

    def client(self) -> float:
        """Return the seconds that virsh takes to start, ask for next to nothing, and end."""
        begin = time.perf_counter()
        self.say("version")
        return time.perf_counter() - begin

    def domains(self) -> list[int]:
        """Return the processes of its domains, as it wrote them down."""
        place = Path(f"/proc/{self.pid}/root/run/libvirt/qemu")
        return [int(file.read_text()) for file in place.glob("*.pid") if file.stem != "driver"]

    def memory(self) -> float:
        """Return the daemon's proportional set size in MiB."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        (pss,) = [line for line in lines if line.startswith("Pss:")]
        return int(pss.split()[1]) / 1024


@contextmanager
def libvirtd() -> Iterator[Libvirt | None]:
    """Yield a daemon while this lasts; None where libvirt is not installed."""
    if not DAEMON.exists():
        yield None
        return
    words = ["unshare", "-m", "-n", "--propagation", "private", "sh", "-c", _SCRIPT]
    daemon = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    socket = Path(f"/proc/{daemon.pid}/root/run/libvirt/libvirt-sock")
    try:
        deadline = time.monotonic() + _SECONDS
        while not socket.exists():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("libvirtd does not start")
            time.sleep(0.05)
        found = Libvirt(daemon.pid)
        try:
            yield found
        finally:
            for domain_pid in found.domains():
                os.kill(domain_pid, signal.SIGKILL)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(_SECONDS)
