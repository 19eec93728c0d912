"""A machine to try an image on: QEMU, OVMF with Secure Boot, and swtpm as its TPM.

Everything of the machine lies in one directory: its disk (a copy of the image), its firmware's
variables, its TPM, its serial console. Emulated unless told otherwise, so it runs anywhere; what
the serial console says in JSON is the progress of the boot.
"""

from __future__ import annotations

import json
import math
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from casemate.errors import BootError
from casemate.image import tools
from casemate.image.debian import Packages
from casemate.image.secureboot import OVMF_CODE

SILENCE: Final = 600.0
"""Seconds without a word on the console after which the boot is taken to hang: a stage takes 20
under emulation, and 200 on a machine that is busy. Who does not want to wait presses Ctrl-C."""
POLL: Final = 0.1
CONTROL_SECONDS: Final = 20.0
"""For QEMU to answer; it draws the screen meanwhile."""
MEMORY: Final = 2048
"""MiB: the image takes 100, the rest is for virtual machines."""
DISK: Final = "disk.img"
PANIC: Final = b"Kernel panic"
ASKING: Final = frozenset({"asking", "locked"})
"""Stages in which somebody is waited for, however long he thinks."""
LAST_SCREEN: Final = 1 << 14
"""Bytes: more than the direct console writes to draw a whole screen."""
SHOWN: Final = 200
"""Characters of a machine's last words that go into our sentence."""
_CONTROL: Final = re.compile(r"\x1b\[[0-9;=?]*[A-Za-z]|[^ -~]")
_CLEAR: Final = b"\x1b[2J"
_FACTS: Final = re.compile(rb'(?m)^\{"stage"[^\n]*\n')
_BAR: Final = re.compile(rb" +([a-z]+) +\[#*\.*\] +([0-9]+)%")
"""What an installer shows while it works."""
SERIAL_LIMIT: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the machine is made of; memory in MiB.

    Emulated it has one processor: with two, Linux sometimes waited for ever behind firmware, for an
    interrupt that QEMU 7.2 still held as being served.
    """

    cpus: int = 1
    memory: int = MEMORY
    accelerator: str = "tcg,thread=multi"
    port: int = 0
    """Port of this machine that leads to the API; 0 for none."""
    tpm: bool = True
    drives: tuple[tuple[Path, str], ...] = ()
    """More disks, before its own, not written to: a file and its device (``ide-cd``)."""


class Machine:
    """A machine in a directory; made by ``create``, started by ``start``.

    Args:
        place: the directory, with ``disk.img``, ``vars.fd`` and ``tpm/state``.
        hardware: what it is made of.
    """

    def __init__(self, place: Path, hardware: Hardware) -> None:
        self.place = place
        self.hardware = hardware
        self._tpm: tools.Background | None = None
        self._qemu: tools.Background | None = None
        self._began = self._heard = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def serial(self) -> Path:
        """The serial console's output, of all starts."""
        return self.place / "serial.log"

    @property
    def line(self) -> Path:
        """The socket of the serial line, for a terminal program (socat)."""
        return self.place / "serial.sock"

    @property
    def screen(self) -> Path:
        """The socket of its screen, for a VNC viewer."""
        return self.place / "screen.sock"

    @property
    def pid(self) -> int:
        """QEMU's process number, 0 when off."""
        return self._qemu.pid if self._qemu else 0

    def running(self) -> bool:
        """Tell whether it is on."""
        return self._qemu is not None and self._qemu.ended() is None

    def start(self) -> None:
        """Switch the machine on.

        Raises:
            HostError: a program is missing.
        """
        self.stop()
        self._began = self._heard = self.serial.stat().st_size if self.serial.exists() else 0
        channel = self.place / "tpm.sock"
        channel.unlink(missing_ok=True)
        if self.hardware.tpm:
            self._start_tpm(channel)
        self._qemu = tools.Background(
            "qemu-system-x86_64", *self._arguments(channel), log=self.place / "qemu.log"
        )

    def _start_tpm(self, channel: Path) -> None:
        self._tpm = tools.Background(
            "swtpm",
            *("socket", "--tpm2", "--tpmstate", f"dir={self.place / 'tpm' / 'state'}"),
            *("--ctrl", f"type=unixio,path={channel}", "--terminate"),
            log=self.place / "swtpm.log",
        )
        deadline = time.monotonic() + 10
        while not channel.exists() and self._tpm.ended() is None and time.monotonic() < deadline:
            time.sleep(POLL / 10)

    def stop(self) -> None:
        """Take the machine's power."""
        for process in (self._qemu, self._tpm):
            if process is not None:
                process.stop()
        self._qemu = self._tpm = None

    def told(self, seconds: float = SILENCE) -> Iterator[dict[str, object]]:
        """Yield what the machine tells of its boot; ends with ``ready`` or ``refused``.

        An installer's bar is told as ``progress``. Where somebody is asked there is no limit.

        Raises:
            BootError: it says nothing any more, or went off.
        """
        waiting = heard = b""
        last, limit = time.monotonic(), seconds
        while True:
            data = self._read()
            if data:
                last = time.monotonic()
            *lines, waiting = re.split(rb"[\r\n]", waiting + data)
            for line in filter(None, lines):
                heard = line
                if PANIC in line:
                    raise BootError(
                        "Linux stopped: " + line.decode("utf-8", "replace").partition("] ")[2],
                        code="machine-panic",
                        component="Linux",
                        remedy=f"Look at {self.serial}.",
                    )
                fact = _fact(line)
                if fact is not None:
                    limit = math.inf if fact["stage"] in ASKING else seconds
                    yield fact
                    if fact["stage"] in {"ready", "refused"}:
                        return
            if not data and not self.running():
                words = (self.place / "qemu.log").read_text(errors="replace").strip()[-400:]
                raise BootError(f"the machine went off. {words}".strip(), code="machine-off")
            if time.monotonic() - last > limit:
                said = _CONTROL.sub("", heard.decode("utf-8", "replace")).strip()[-SHOWN:]
                raise BootError(
                    f"the machine has said nothing for {seconds:.0f} s; its last words: {said}",
                    code="boot-hangs",
                    remedy=f"Look at {self.serial}.",
                )
            time.sleep(POLL)

    def picture(self, out: Path) -> None:
        """Write what the screen shows, as PNG. Raises OSError where the machine is off."""
        words = {"filename": str(out), "format": "png"}
        asked = ({"execute": "qmp_capabilities"}, {"execute": "screendump", "arguments": words})
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(CONTROL_SECONDS)
            control.connect(str(self.place / "qmp.sock"))
            with control.makefile("rwb") as stream:
                stream.readline()
                for one in asked:
                    stream.write(json.dumps(one).encode())
                    stream.flush()
                    while b'"return"' not in (line := stream.readline()):
                        if not line or b'"error"' in line:
                            raise OSError(line.decode("utf-8", "replace"))

    def console(self) -> str:
        """Return what the console has said since the last start."""
        return self._said(self._began).decode("utf-8", "replace")

    def last_screen(self) -> bytes:
        """Return what a terminal must be sent to show what the serial console last showed."""
        size = self.serial.stat().st_size if self.serial.exists() else 0
        said = self._said(max(size - LAST_SCREEN, 0))
        return _FACTS.sub(b"", said[max(said.rfind(_CLEAR), 0) :])

    def _read(self) -> bytes:
        data = self._said(self._heard)
        self._heard += len(data)
        return data

    def _said(self, start: int) -> bytes:
        try:
            with self.serial.open("rb") as stream:
                stream.seek(start)
                return stream.read(SERIAL_LIMIT)
        except FileNotFoundError:
            return b""

    def _arguments(self, channel: Path) -> Iterator[str]:
        hardware = self.hardware
        forward = f",hostfwd=tcp:127.0.0.1:{hardware.port}-:443" if hardware.port else ""
        yield from ("-nodefaults", "-no-user-config", "-display", "none")
        yield from ("-machine", "q35,smm=on", "-accel", hardware.accelerator)
        yield from ("-cpu", "max", "-smp", str(hardware.cpus), "-m", str(hardware.memory))
        yield from ("-global", "driver=cfi.pflash01,property=secure,value=on")
        yield from ("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file=/{OVMF_CODE}")
        yield from ("-drive", f"if=pflash,unit=1,format=raw,file={self.place / 'vars.fd'}")
        for number, (file, device) in enumerate(hardware.drives):
            drive = f"if=none,id=more{number},format=raw,readonly=on,file={file}"
            yield from ("-drive", drive, "-device", f"{device},drive=more{number}")
        yield from ("-drive", f"if=none,id=disk,format=raw,file={self.place / DISK}")
        yield from ("-device", "virtio-blk-pci,drive=disk")
        if hardware.tpm:
            yield from ("-chardev", f"socket,id=tpm,path={channel}")
            yield from ("-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm")
        yield from ("-device", "VGA,romfile=", "-vnc", f"unix:{self.screen}")
        yield from ("-netdev", f"user,id=net{forward}")
        yield from ("-device", "virtio-net-pci,netdev=net,romfile=")
        line = f"socket,id=serial,path={self.line},server=on,wait=off"
        yield from ("-chardev", f"{line},logfile={self.serial},logappend=on")
        yield from ("-serial", "chardev:serial")
        yield from ("-qmp", f"unix:{self.place / 'qmp.sock'},server=on,wait=off")


def create(place: Path, disk: Path, variables: bytes, packages: Packages) -> None:
    """Make a machine's directory around an image: a copy of the disk, firmware's variables.

    Args:
        place: the directory.
        disk: the image; not changed.
        variables: firmware's, with the Secure Boot keys.
        packages: bring the firmware.

    Raises:
        HostError: a package or program is missing.
    """
    packages.version("ovmf")
    place.mkdir(parents=True, exist_ok=True)
    (place / "vars.fd").write_bytes(variables)
    half = place / f"{DISK}.new"  # a copy that was cut off is no machine
    tools.run("qemu-img", "convert", "-f", "raw", "-O", "raw", disk, half)
    half.rename(place / DISK)


def _fact(line: bytes) -> dict[str, object] | None:
    if bar := _BAR.fullmatch(line):
        return {"stage": "progress", "what": bar[1].decode(), "percent": int(bar[2])}
    start = line.find(b'{"stage"')
    if start < 0:
        return None
    try:
        value = json.loads(line[start:])
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
