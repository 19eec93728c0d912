"""Starts a plug-in's process, asks it, and ends it: one process for each use."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol, Self

from casemate.errors import FormatError, HostError
from casemate.formats.pluginmanifest import PluginKind
from casemate.kernel import confine
from casemate.kernel.boot.settings import ENVIRONMENT, PYTHON
from casemate.kernel.ownroot import hide_all_but
from casemate.kernel.plugins.code import PluginCode
from casemate.kernel.plugins.wire import pack, unpack
from casemate.kernel.sys import spawn
from casemate.kernel.sys.namespaces import Namespace, unshare
from casemate.machine.processplan import PLUGIN

ANSWER_SECONDS: Final = 60.0
"""Until a plug-in has answered one question; the first answer takes the start of Python, seconds
on an emulated machine."""
END_SECONDS: Final = 10.0
_CHANNEL: Final = 3
_FIRST: Final = 4
_TEXT: Final = 300  # characters of what a plug-in says of its failure

Words = dict[str, Any]


class Session(Protocol):
    """A plug-in that runs and answers."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """End it."""

    def ask(self, words: Words, data: bytes = b"") -> tuple[Words, bytes]:
        """Return the answer."""

    def alive(self) -> bool:
        """Tell whether it still runs."""


Start = Callable[[PluginCode, Path, Mapping[str, Any], Mapping[str, int]], Session]
"""Starts a plug-in: its code, the visor root that it was read from, what else it is told, and the
open files that it gets, by name."""


class Running:
    """The process of a plug-in; a context manager that ends it."""

    def __init__(
        self, code: PluginCode, root: Path, told: Mapping[str, Any], files: Mapping[str, int]
    ) -> None:
        self.name = code.manifest.name
        self._deadline = 0.0
        ours, theirs = socket.socketpair()
        with theirs:
            fds = {_CHANNEL: theirs.fileno()}
            order = dict(told) | _order(code, fds)
            for number, (name, descriptor) in enumerate(files.items(), _FIRST + len(code.files)):
                order[name] = number
                fds[number] = descriptor
            # One that carries frames uses the processor for as long as it is loaded.
            lasting = code.manifest.kind is PluginKind.NETWORK
            plan = replace(PLUGIN, processor_seconds=0) if lasting else PLUGIN
            argv = (PYTHON, "-I", "-B", "-m", "casemate.kernel.enter", PLUGIN.name)
            program = spawn.Program((*argv, json.dumps(order)), ENVIRONMENT, fds)
            try:
                self._child = confine.start(plan, program, prepare=lambda: _apart(root))
            except BaseException:
                ours.close()
                raise
        self._channel = ours
        try:
            self._receive()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def alive(self) -> bool:
        """Tell whether the process still runs."""
        return not spawn.wait_gone(self._child.pidfd, 0)

    def close(self) -> None:
        """End the process."""
        self._channel.close()
        with contextlib.suppress(HostError):
            spawn.kill(self._child.pidfd, signal.SIGKILL)
        spawn.wait_gone(self._child.pidfd, END_SECONDS)
        spawn.reap([self._child.pid])
        os.close(self._child.pidfd)

    def ask(self, words: Words, data: bytes = b"") -> tuple[Words, bytes]:
        """Ask the plug-in.

        Raises:
            HostError: ``plugin-failed``: it says so, went away, or does not answer in time.
            FormatError: It answers something else.
        """
        self._channel.settimeout(ANSWER_SECONDS)
        try:
            self._channel.sendall(pack(words, data))
        except OSError as error:
            raise self._failed(f"it went away ({error.strerror or error})") from error
        return self._receive()

    def _receive(self) -> tuple[Words, bytes]:
        self._deadline = time.monotonic() + ANSWER_SECONDS
        try:
            words, data = unpack(self._exactly)
        except TimeoutError as error:
            raise self._failed(f"it did not answer within {ANSWER_SECONDS:.0f} s") from error
        except OSError as error:
            raise self._failed(f"it went away ({error.strerror or error})") from error
        except FormatError as error:
            raise FormatError(
                f"The plug-in {self.name} answers nonsense: {error.reason}",
                code="plugin-message",
                component=self.name,
            ) from error
        if (said := words.get("error")) is not None:
            raise self._failed(str(said)[:_TEXT])
        return words, data

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._channel.settimeout(left)
            part = self._channel.recv(size)
            if not part:
                raise ConnectionResetError("its process ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _failed(self, why: str) -> HostError:
        return HostError(
            f"The plug-in {self.name} failed: {why}",
            code="plugin-failed",
            component=self.name,
            remedy="Ask the provider of its VIB.",
        )


def _order(code: PluginCode, fds: dict[int, int]) -> Words:
    """Return what the process is told about its code, adding its descriptors to ``fds``."""
    modules = []
    for number, one in enumerate(code.files, _FIRST):
        fds[number] = one.sealed
        modules.append(
            {
                "module": one.module,
                "kind": one.kind.value,
                "path": f"/{one.path}",
                "package": one.package,
                "descriptor": number,
                "sha256": one.sha256.hex(),
            }
        )
    manifest = code.manifest
    return {
        "modules": modules,
        "kind": manifest.kind.value,
        "module": manifest.module,
        "entry": manifest.entry,
    }


def _apart(root: Path) -> None:
    """Move the process that is being started into namespaces of its own, with nothing in them."""
    unshare(Namespace.NET)
    hide_all_but(root=root)
