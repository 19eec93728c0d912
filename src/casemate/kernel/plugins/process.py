"""The process in which a plug-in runs: it answers the kernel and has nothing else to do.

casemate-python -I -B -m casemate.kernel.enter plugin ORDER

By the time this runs, the walls stand: another user, no capability, no socket, no file but those of
the visor root, a network namespace with nothing in it. Descriptor 3 leads to the kernel; what the
plug-in reads for it came along as an open file.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol

from casemate.errors import FormatError
from casemate.kernel.plugins.importer import Verified, install
from casemate.kernel.plugins.wire import pack, unpack

CHANNEL: Final = 3
FRAME_LIMIT: Final = 1 << 16
"""Bytes of a frame or datagram that are read."""
FRAME_LEAST: Final = 14
"""Bytes of the least frame: two addresses and a type."""
_TEXT: Final = 300  # characters of a failure

Words = dict[str, Any]


class Disk(Protocol):
    """What a storage plug-in's entry returns (interface 1)."""

    capacity: int

    def read(self, offset: int, length: int) -> bytes:
        """Return the disk's content there."""


class EndorsementSource(Protocol):
    """What a TPM plug-in's entry returns (interface 1)."""

    def indexes(self) -> list[int]:
        """Return the NV indexes that it wants to see."""

    def certificate(self, public: bytes, contents: dict[int, bytes]) -> bytes:
        """Return the EK's certificate, DER; nothing where there is none."""


class Storage:
    """Answers for a plug-in of the kind storage."""

    def __init__(self, entry: Callable[..., Disk], order: Words) -> None:
        self._entry = entry
        self._source: int | None = order.get("source")
        self._disk: Disk | None = None

    def answer(self, words: Words, _data: bytes) -> tuple[Words, bytes]:
        """Return words and bytes."""
        if self._source is None:
            raise FormatError("there is no file to read")
        if words["call"] == "open":
            size = os.fstat(self._source).st_size
            self._disk = self._entry(self._read, size)
            return {"capacity": int(self._disk.capacity)}, b""
        if self._disk is None:
            raise FormatError("no disk was opened")
        return {}, bytes(self._disk.read(int(words["offset"]), int(words["length"])))

    def _read(self, offset: int, length: int) -> bytes:
        """Return what the file has there; fewer bytes only at its end."""
        if self._source is None or offset < 0 or length < 0:
            raise FormatError("nothing lies there")
        parts = []
        while length and (part := os.pread(self._source, length, offset)):
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)


class Tpm:
    """Answers for a plug-in of the kind tpm."""

    def __init__(self, entry: Callable[..., EndorsementSource], order: Words) -> None:
        self._source = entry(str(order.get("maker", "")), str(order.get("firmware", "")))

    def answer(self, words: Words, data: bytes) -> tuple[Words, bytes]:
        """Return words and bytes."""
        if words["call"] == "indexes":
            return {"indexes": [int(one) for one in self._source.indexes()]}, b""
        public, *contents = _split(data, words["sizes"])
        found = dict(zip(map(int, words["indexes"]), contents, strict=True))
        return {}, bytes(self._source.certificate(public, found))


def _split(data: bytes, sizes: list[int]) -> list[bytes]:
    parts = []
    for size in sizes:
        parts.append(data[:size])
        data = data[size:]
    return parts


class Tunnel(Protocol):
    """What a network plug-in's entry returns (interface 1)."""

    def pack(self, frame: bytes) -> bytes:
        """Return the datagram that carries a frame to the peer; nothing to drop it."""

    def unpack(self, datagram: bytes) -> bytes:
        """Return the frame in a datagram of the peer; nothing to drop it."""


class Network:
    """Carries frames for a plug-in of the kind network."""

    def __init__(self, entry: Callable[..., Tunnel], order: Words) -> None:
        self._tunnel = entry({str(k): str(v) for k, v in order.get("options", {}).items()})
        self._frames: int | None = order.get("frames")
        self._wire: int | None = order.get("wire")

    def run(self) -> None:
        """Carry until the kernel lets go of its end."""
        poller = select.poll()
        for descriptor in (CHANNEL, self._frames, self._wire):
            if descriptor is not None:
                poller.register(descriptor, select.POLLIN)
        while True:
            for descriptor, _ in poller.poll():
                if descriptor == CHANNEL:
                    return
                # What cannot be read or sent now is lost, as on every wire.
                with contextlib.suppress(Exception):
                    self._carry(descriptor)

    def _carry(self, descriptor: int) -> None:
        data = os.read(descriptor, FRAME_LIMIT)
        if descriptor == self._frames and self._wire is not None:
            if datagram := self._tunnel.pack(data):
                os.write(self._wire, datagram)
        elif self._frames is not None:
            frame = self._tunnel.unpack(data)
            if len(frame) >= FRAME_LEAST:
                os.write(self._frames, frame)


KINDS: Final[dict[str, Callable[..., Storage | Tpm]]] = {"storage": Storage, "tpm": Tpm}


def read_exactly(size: int) -> bytes:
    """Return so many bytes of the kernel's; the end of them ends the process."""
    parts = []
    while size:
        part = os.read(CHANNEL, size)
        if not part:
            os._exit(0)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def tell(words: Words, data: bytes = b"") -> None:
    """Send a message to the kernel."""
    view = memoryview(pack(words, data))
    while view:
        view = view[os.write(CHANNEL, view) :]


def main() -> int:
    """Import the plug-in, say so, and answer until the kernel has no more questions."""
    order: Words = json.loads(sys.argv[1])
    try:
        install(Verified(**one) for one in order["modules"])
        module = importlib.import_module(order["module"])
        entry = getattr(module, order["entry"])
        if order["kind"] == "network":
            network = Network(entry, order)
            tell({"ready": order["kind"]})
            network.run()
            return 0
        service = KINDS[order["kind"]](entry, order)
    except Exception as error:  # noqa: BLE001 (whatever a stranger's code raises)
        with contextlib.suppress(OSError):
            tell({"error": _told(error)})
        return 1
    tell({"ready": order["kind"]})
    while True:
        words, data = unpack(read_exactly)
        try:
            answer = pack(*service.answer(words, data))
        except Exception as error:  # noqa: BLE001 (as above)
            answer = pack({"error": _told(error)})
        view = memoryview(answer)
        while view:
            view = view[os.write(CHANNEL, view) :]


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_TEXT]


if __name__ == "__main__":
    sys.exit(main())
