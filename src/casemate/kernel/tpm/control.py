"""The control channel of swtpm: what a platform's wires do to a real TPM.

Power and reset, and the hash interface at locality 4 that a D-RTM launch uses. Big-endian: a
command number (u32) and its arguments; the answer begins with a result (u32, 0 is good).
Source: swtpm's tpm_ioctl.h (as facts: numbers and layouts).
"""

from __future__ import annotations

import socket
import struct
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from casemate.errors import TpmError

TIMEOUT = 10.0
"""Seconds for one answer: a reset with state on a slow disk takes tenths of one."""

HASH_CHUNK = 4096
"""Bytes of one HASH_DATA command: swtpm's own buffer for it."""


class Command(IntEnum):
    """Commands of the control channel that are used here."""

    INIT = 2
    SHUTDOWN = 3
    GET_TPMESTABLISHED = 4
    HASH_START = 6
    HASH_DATA = 7
    HASH_END = 8
    RESET_TPMESTABLISHED = 11
    STOP = 14


class Control:
    """A connection to the control socket. swtpm serves one at a time: close it soon.

    Raises TpmError when the process is not there, does not answer, or refuses.
    """

    def __init__(self, path: Path, *, timeout: float = TIMEOUT) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise _gone(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the TPM goes on."""
        self._socket.close()

    def power_on(self) -> None:
        """Give the TPM power and reset: all PCRs begin anew, 17-22 as FF..FF."""
        self._call(Command.INIT, struct.pack(">I", 0))

    def stop(self) -> None:
        """Take the TPM's power; the process stays."""
        self._call(Command.STOP)

    def shut_down(self) -> None:
        """End the process."""
        self._call(Command.SHUTDOWN)

    def established(self) -> bool:
        """Tell whether a D-RTM launch has taken place since the flag was last reset."""
        flag = self._call(Command.GET_TPMESTABLISHED, answer=4)[0]
        return bool(flag)

    def reset_established(self, locality: int = 3) -> None:
        """Clear the launch flag; the TPM allows it from localities 3 and 4."""
        self._call(Command.RESET_TPMESTABLISHED, struct.pack(">B", locality))

    def launch(self, code: bytes | bytearray | memoryview) -> None:
        """Play the D-RTM launch: the TPM resets PCR 17-22 and measures ``code`` into PCR 17."""
        view = memoryview(code).cast("B")
        self._call(Command.HASH_START)
        for start in range(0, len(view), HASH_CHUNK):
            chunk = view[start : start + HASH_CHUNK]
            self._call(Command.HASH_DATA, struct.pack(">I", len(chunk)) + bytes(chunk))
        self._call(Command.HASH_END)

    def _call(self, command: Command, arguments: bytes = b"", *, answer: int = 0) -> bytes:
        try:
            self._socket.sendall(struct.pack(">I", command) + arguments)
            reply = self._read(4 + answer)
        except OSError as error:
            raise _gone(error) from error
        result = int.from_bytes(reply[:4], "big")
        if result != 0:
            raise TpmError(
                f"the TPM refused {command.name}: result {result:#x}",
                code="tpm-control",
                component="swtpm",
            )
        return reply[4:]

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self._socket.recv(size - len(data))
            if not chunk:
                raise ConnectionResetError("connection closed")
            data += chunk
        return data


def _gone(error: OSError) -> TpmError:
    return TpmError(
        f"the TPM's process does not answer: {error}", code="tpm-gone", component="swtpm"
    )
