"""A lease as clients see it: state, disks, where each goes, and what was sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from casemate.calls.leases import LeaseDisk, LeaseReply
from casemate.vim25.values import MoRef, Obj, Value

_KIB: Final = 1024
_TYPES: Final = {
    "ide": "VirtualIDEController",
    "scsi": "VirtualLsiLogicController",
    "sata": "VirtualAHCIController",
    "nvme": "VirtualNVMEController",
}


def device_key(owner: str, controller: str, unit: int) -> str:
    """Return the key of a disk: of a VM by its id, or of a machine to be by its name."""
    bus = controller.rstrip("0123456789")
    return f"/{owner}/{_TYPES.get(bus, bus)}{controller.removeprefix(bus) or 0}:{unit}"


def controller_type(bus: str) -> str:
    """Return the type of controller that a bus has in an import."""
    return _TYPES[bus]


@dataclass(frozen=True, slots=True)
class Sent:
    """A disk that was sent as a whole: its digests in hex and its size."""

    sha1: str
    sha256: str
    size: int


@dataclass(slots=True)
class Lease:
    """One lease of a session; ``token`` is the secret in its URLs.

    ``forget`` is called once, when it is over.
    """

    ref: MoRef
    token: str
    handle: str
    name: str
    lent: LeaseReply
    importing: bool
    base: str
    thumbprint: str
    forget: Callable[[str], None]
    state: str = "ready"
    error: Obj | None = None
    percent: int = 0
    sent: dict[str, Sent] = field(default_factory=dict)

    def properties(self) -> Mapping[str, Value]:
        """See ``Own``."""
        return {
            "initializeProgress": 100,
            "transferProgress": self.percent,
            "mode": "pushOrGet",
            "capabilities": Obj(
                "HttpNfcLeaseCapabilities", pullModeSupported=False, corsSupported=False
            ),
            "info": self._info() if self.state == "ready" else None,
            "state": self.state,
            "error": self.error,
        }

    def close(self) -> None:
        """See ``Own``; the kernel ends what nothing is heard of."""
        self.end("done")

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state != "ready"

    def end(self, state: str) -> None:
        """Take note that it is over."""
        self.state = state
        self.forget(self.token)

    def disk(self, file: str) -> LeaseDisk | None:
        """Return the disk of a file in a URL."""
        for number, disk in enumerate(self.lent.disks):
            if file == _file(number):
                return disk
        return None

    def files(self) -> tuple[tuple[str, LeaseDisk], ...]:
        """Return each disk with its key."""
        return tuple((self._key(disk), disk) for disk in self.lent.disks)

    def manifest(self) -> tuple[Obj, ...]:
        """Return what was sent so far."""
        return tuple(
            Obj(
                "HttpNfcLeaseManifestEntry",
                key=key,
                sha1=sent.sha1,
                checksum=sent.sha256,
                checksumType="sha256",
                size=sent.size,
                disk=True,
                capacity=disk.capacity,
            )
            for key, disk in self.files()
            if (sent := self.sent.get(disk.file_name)) is not None
        )

    def _key(self, disk: LeaseDisk) -> str:
        return device_key(self.lent.vm, disk.controller, disk.unit)

    def _info(self) -> Obj:
        urls = tuple(
            Obj(
                "HttpNfcLeaseDeviceUrl",
                key=self._key(disk),
                importKey=device_key(self.name, disk.controller, disk.unit),
                url=f"{self.base}/{self.token}/{_file(number)}",
                sslThumbprint=self.thumbprint,
                disk=True,
                targetId=_file(number),
            )
            for number, disk in enumerate(self.lent.disks)
        )
        return Obj(
            "HttpNfcLeaseInfo",
            lease=self.ref,
            entity=MoRef("VirtualMachine", self.lent.vm),
            deviceUrl=urls,
            totalDiskCapacityInKB=sum(disk.capacity for disk in self.lent.disks) // _KIB,
            leaseTimeout=self.lent.seconds,
        )


def _file(number: int) -> str:
    return f"disk-{number}.vmdk"
