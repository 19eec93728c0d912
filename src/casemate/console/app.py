"""What the direct console knows and does: calls to the kernel, with the rights of who logged in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from casemate.calls.admin import ChangePassword, LogReply, ReadLog, SetLockdown
from casemate.calls.console import (
    ConsoleLogin,
    EndHost,
    NetworkReply,
    ReadNetwork,
    RestartAgents,
    SetNetwork,
)
from casemate.calls.messages import (
    Empty,
    Identity,
    IdentityReply,
    Logout,
    SessionReply,
    Snapshot,
    SnapshotReply,
    Status,
    StatusReply,
)
from casemate.calls.software import BootRollback
from casemate.console.model import MODES, Action, Facts, Kind
from casemate.errors import CasemateError
from casemate.machine.facts import HostFact
from casemate.machine.governance import LockdownFact
from casemate.machine.hardware import HardwareFact

PEER = "console"
FIRST_LIMIT = 4096
"""Characters of what is shown until the first login."""
LOG_LINES = 1000
"""Lines of a log that are read at once: its end."""

_TOLD = {
    Kind.PASSWORD: ("The password is changed. Log in again.",),
    Kind.NETWORK: ("Kept. Restart the host to use it.",),
    Kind.ROLL_BACK: ("The other bank boots next: restart the host.",),
    Kind.RESTART_AGENTS: ("The management agents are restarted.",),
    Kind.SHUT_DOWN: ("The host ends.",),
    Kind.RESTART: ("The host ends.",),
}
"""What is said after an action that is no page of its own."""
_Reply = TypeVar("_Reply")
_GIB = 1 << 30


class Kernel(Protocol):
    """The way to the kernel: a request, and the type of its reply."""

    def ask(self, request: object, reply: type[_Reply]) -> _Reply:
        """Return the reply. Raises CasemateError."""

    def close(self) -> None:
        """Close the connection."""


class App:
    """One console.

    Args:
        kernel: the way to it.
        certificate: the API's, DER, empty where it is not known.
        first: file with what is shown until somebody logs in for the first time, if it is there.
    """

    def __init__(self, kernel: Kernel, certificate: bytes = b"", first: Path | None = None) -> None:
        self._kernel = kernel
        self._certificate = certificate
        self._first = first
        self._session = ""
        self._user = ""

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
        """Log out and close the connection."""
        self.log_out()
        self._kernel.close()

    def running(self) -> bool:
        """Tell whether the host is up. Raises CasemateError."""
        return self._kernel.ask(Status(), StatusReply).state == "running"

    def facts(self) -> Facts:
        """Return what there is to show. Raises CasemateError."""
        status = self._kernel.ask(Status(), StatusReply)
        told = self._kernel.ask(Snapshot(), SnapshotReply).facts
        host = next((one for one in told if isinstance(one, HostFact)), None)
        machine = next((one for one in told if isinstance(one, HardwareFact)), None)
        lockdown = next((one for one in told if isinstance(one, LockdownFact)), None)
        return Facts(
            product=f"Casemate {status.version}" + (f"  (build {host.build})" if host else ""),
            hardware=_hardware(host),
            name=host.name if host else "",
            api=status.api,
            network=tuple(
                f"{nic.name:<10} {nic.mac}  link {'up' if nic.link_up else 'down'}"
                for nic in (machine.nics if machine else ())
            ),
            attestation=tuple(self._attestation(status, host)),
            lockdown=lockdown.mode.value if lockdown else MODES[0],
            banks=(f"Running {status.boot_bank}",),
            warnings=(
                *self._first_words(),
                *(f"{component}: {reason}" for _, component, reason, _ in status.findings),
            ),
        )

    def perform(self, action: Action) -> tuple[str, ...]:
        """Do something; return lines to show. Raises CasemateError."""
        words = action.words
        match action.kind:
            case Kind.LOG_IN:
                reply = self._kernel.ask(ConsoleLogin(*words), SessionReply)
                self._session, self._user = reply.handle, words[0]
                if self._first is not None:
                    self._first.unlink(missing_ok=True)
            case Kind.LOG_OUT:
                self.log_out()
            case Kind.READ_LOG:
                return self._log(words[0])
            case Kind.READ_NETWORK:
                known = self._kernel.ask(ReadNetwork(self._session), NetworkReply)
                return known.host_name, known.address, known.netmask, known.gateway
            case _:
                self._kernel.ask(self._change(action.kind, words), Empty)
                return _TOLD.get(action.kind, ())
        return ()

    def _change(self, kind: Kind, words: tuple[str, ...]) -> object:
        """Return the request of an action that changes something."""
        match kind:
            case Kind.LOCKDOWN:
                return SetLockdown(self._session, words[0])
            case Kind.PASSWORD:
                return ChangePassword(self._user, words[0], words[1], PEER)
            case Kind.NETWORK:
                return SetNetwork(self._session, *words)
            case Kind.ROLL_BACK:
                return BootRollback(self._session)
            case Kind.RESTART_AGENTS:
                return RestartAgents(self._session)
            case _:
                return EndHost(self._session, kind is Kind.RESTART)

    def log_out(self) -> None:
        """End the session; one that is gone already is no error."""
        session, self._session, self._user = self._session, "", ""
        if session:
            try:
                self._kernel.ask(Logout(session), Empty)
            except CasemateError:
                return

    def _attestation(self, status: StatusReply, host: HostFact | None) -> list[str]:
        boot = "complete" if status.state == "running" else status.state
        lines = [f"TPM {status.tpm}, measured boot {boot}"]
        if host is not None and host.taints:
            lines += [f"Tainted: {one}" for one in host.taints]
        try:
            identity = self._kernel.ask(Identity(), IdentityReply)
        except CasemateError as error:
            lines.append(f"The TPM does not tell who it is: {error.reason}")
        else:
            lines.append(f"EK   {hashlib.sha256(identity.ek_public).hexdigest()}")
            lines.append(f"AK   {hashlib.sha256(identity.ak_public).hexdigest()}")
        if self._certificate:
            lines.append("Certificate of the API, SHA-256:")
            lines.append(f"     {hashlib.sha256(self._certificate).hexdigest()}")
        return lines

    def _first_words(self) -> list[str]:
        try:
            text = self._first.read_text(encoding="utf-8") if self._first else ""
        except (OSError, ValueError):
            return []
        return text[:FIRST_LIMIT].splitlines()

    def _log(self, name: str) -> tuple[str, ...]:
        end = self._kernel.ask(ReadLog(self._session, name, 1, 0), LogReply).end
        start = max(end - LOG_LINES + 1, 1)
        return self._kernel.ask(ReadLog(self._session, name, start, LOG_LINES), LogReply).lines


def _hardware(host: HostFact | None) -> tuple[str, ...]:
    if host is None:
        return ()
    return (
        f"{host.cpu_packages} x {host.cpu_model}".strip(),
        f"{host.memory_size / _GIB:.1f} GiB Memory",
    )
