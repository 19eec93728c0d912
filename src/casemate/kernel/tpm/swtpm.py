"""The embedded TPM: swtpm, manufactured once per home, owned by the launcher.

Everything it needs lies under ``<home>/tpm``: its state (owned by its own uid), and the little
certificate authority that issued its EK certificate, whose certificates are also put where a
verifier looks for EK roots, ``<home>/trust/ek``. The process runs without privileges; it gets its
state directory as a descriptor and its socket directory as working directory, so nothing above
them needs to be open to its uid.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from casemate.errors import HostError, TpmError
from casemate.kernel import confine
from casemate.kernel.home import TPM_UID, Home
from casemate.kernel.sys import spawn
from casemate.kernel.tpm.control import TIMEOUT, Control
from casemate.machine.processplan import swtpm_plan

SWTPM = Path("/usr/bin/swtpm")
SWTPM_SETUP = Path("/usr/bin/swtpm_setup")
SWTPM_LOCALCA = Path("/usr/bin/swtpm_localca")

START_TIMEOUT = 30.0
"""Seconds until the control socket must answer; it takes about 0.02."""

STOP_TIMEOUT = 5.0
"""Seconds for an orderly end, before the process is killed."""

SOCKET_PATH_LIMIT = 107
"""Bytes of a Unix socket's path: sockaddr_un."""

_STATE_FD = 3
_STARTUP_CLEAR = bytes.fromhex("80010000000c000001440000")  # TPM2_Startup(TPM_SU_CLEAR)
_RESPONSE_HEADER = 10  # bytes: tag, size, response code
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_CA_CERTIFICATES = {
    "swtpm-localca-rootca-cert.pem": "casemate-swtpm-root.pem",
    "issuercert.pem": "casemate-swtpm-issuer.pem",
}


@dataclass(frozen=True, slots=True)
class Swtpm:
    """A running swtpm. ``path`` is the command channel's socket; the control channel is beside."""

    pid: int
    pidfd: int
    path: Path

    @property
    def control(self) -> Path:
        """The control channel's socket, where the TSS expects it."""
        return control_path(self.path)

    def reset(self) -> None:
        """Give the TPM power and reset, as a reboot of the machine does, and TPM2_Startup."""
        with Control(self.control) as control:
            control.power_on()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
                channel.settimeout(TIMEOUT)
                channel.connect(str(self.path))
                channel.sendall(_STARTUP_CLEAR)
                answer = channel.recv(_RESPONSE_HEADER)
        except OSError as error:
            raise TpmError(
                f"the TPM's process does not answer: {error}", code="tpm-gone", component="swtpm"
            ) from error
        if answer[-4:] != bytes(4):
            raise TpmError(
                f"the TPM refused to start: {answer.hex()}", code="tpm-startup", component="swtpm"
            )

    def stop(self) -> None:
        """End the process, orderly where it still answers, and collect it."""
        try:
            with Control(self.control, timeout=STOP_TIMEOUT) as control:
                control.shut_down()
        except TpmError:
            spawn.kill(self.pidfd, signal.SIGTERM)
        if not spawn.wait_gone(self.pidfd, STOP_TIMEOUT):
            spawn.kill(self.pidfd)
            spawn.wait_gone(self.pidfd, STOP_TIMEOUT)
        spawn.reap([self.pid])
        os.close(self.pidfd)
        self.path.unlink(missing_ok=True)
        self.control.unlink(missing_ok=True)


def control_path(path: Path) -> Path:
    """Return the path of the control channel that belongs to a command channel."""
    return path.with_name(path.name + ".ctrl")


def socket_path(home: Home) -> Path:
    """Return where the embedded TPM of this home listens."""
    return home.run / "tpm" / "tpm.sock"


def is_manufactured(home: Home) -> bool:
    """Tell whether this home has an embedded TPM."""
    return (_state(home) / "tpm2-00.permall").is_file()


def manufacture(home: Home, banks: Sequence[str] = ("sha256", "sha384")) -> None:
    """Make the home's TPM, with an EK certificate; does nothing where there is one.

    Raises HostError (a program is missing), TpmError (manufacturing failed).
    """
    if is_manufactured(home):
        return
    for program in (SWTPM, SWTPM_SETUP, SWTPM_LOCALCA):
        if not program.is_file():
            raise HostError(
                f"{program} is missing",
                code="swtpm-missing",
                component="swtpm",
                remedy="Install the packages swtpm and swtpm-tools.",
            )
    home.tpm.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = home.tpm / "ca"
    authority.mkdir(exist_ok=True, mode=0o700)
    fresh = home.tpm / "state.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    _run_setup(home, _write_configuration(home.tpm, authority), fresh, banks)
    for place in (fresh, *fresh.iterdir()):
        os.chown(place, TPM_UID, TPM_UID)
    _publish(authority, home.trust / "ek")
    shutil.rmtree(_state(home), ignore_errors=True)
    fresh.rename(_state(home))


def start(home: Home) -> Swtpm:
    """Start the home's TPM and give it power (TPM2_Startup included).

    Raises HostError, TpmError.
    """
    if not is_manufactured(home):
        raise TpmError(
            "this home has no embedded TPM yet",
            code="tpm-not-manufactured",
            component="swtpm",
            remedy="casemate up makes one.",
        )
    path = socket_path(home)
    control = control_path(path)
    if len(os.fsencode(control)) > SOCKET_PATH_LIMIT:
        raise HostError(
            f"the path {control} is too long for a socket",
            component=str(control),
            remedy="Choose a home with a shorter path.",
        )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chown(path.parent, TPM_UID, TPM_UID)
    for stale in (path, control):
        stale.unlink(missing_ok=True)
    state = os.open(_state(home), os.O_RDONLY | os.O_DIRECTORY)
    try:
        child = confine.start(
            swtpm_plan(str(_state(home)), str(path.parent)),
            spawn.Program(
                (
                    str(SWTPM),
                    "socket",
                    "--tpm2",
                    "--tpmstate",
                    f"dir=/proc/self/fd/{_STATE_FD},mode=0600",
                    "--server",
                    f"type=unixio,path={path.name},mode=0600",
                    "--ctrl",
                    f"type=unixio,path={control.name},mode=0600",
                    "--locality",
                    "allow-set-locality",
                    "--seccomp",
                    "action=kill",
                ),
                env=_ENVIRONMENT,
                fds={_STATE_FD: state},
                cwd=str(path.parent),
            ),
        )
    finally:
        os.close(state)
    running = Swtpm(child.pid, child.pidfd, path)
    try:
        _power_on(running)
    except BaseException:
        running.stop()
        raise
    return running


def _state(home: Home) -> Path:
    return home.tpm / "state"


def _power_on(running: Swtpm) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            running.reset()
        except TpmError as error:
            late = time.monotonic() > deadline
            if error.code != "tpm-gone" or late or spawn.wait_gone(running.pidfd, 0.005):
                raise
        else:
            return


def _write_configuration(place: Path, authority: Path) -> Path:
    """Write the tools' configuration, so that they touch nothing outside; return its path."""
    localca, options, setup = (
        place / name for name in ("localca.conf", "localca.options", "setup.conf")
    )
    localca.write_text(
        f"statedir = {authority}\n"
        f"signingkey = {authority}/signkey.pem\n"
        f"issuercert = {authority}/issuercert.pem\n"
        f"certserial = {authority}/certserial\n"
    )
    options.write_text(
        "--platform-manufacturer Casemate\n--platform-version 1\n--platform-model Host\n"
    )
    setup.write_text(
        f"create_certs_tool = {SWTPM_LOCALCA}\n"
        f"create_certs_tool_config = {localca}\n"
        f"create_certs_tool_options = {options}\n"
    )
    return setup


def _run_setup(home: Home, configuration: Path, state: Path, banks: Sequence[str]) -> None:
    log = home.tpm / "manufacture.log"
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        child = spawn.spawn(
            spawn.Program(
                (
                    str(SWTPM_SETUP),
                    "--tpm2",
                    "--tpmstate",
                    f"dir://{state}",
                    "--create-ek-cert",
                    "--pcr-banks",
                    ",".join(banks),
                    "--config",
                    str(configuration),
                    "--vmid",
                    f"casemate-{home.identifier}",
                ),
                env=_ENVIRONMENT,
                fds={1: output, 2: output},
            )
        )
    finally:
        os.close(output)
    os.close(child.pidfd)
    _, status = os.waitpid(child.pid, 0)
    if status != 0:
        lines = log.read_text(errors="replace").splitlines() or ["it said nothing"]
        raise TpmError(
            f"swtpm_setup failed: {lines[-1]}",
            code="tpm-manufacture",
            component="swtpm",
            remedy=f"Read {log}; then run casemate up again.",
        )


def _publish(authority: Path, roots: Path) -> None:
    roots.mkdir(parents=True, exist_ok=True, mode=0o755)
    for name, published in _CA_CERTIFICATES.items():
        target = roots / published
        target.write_bytes((authority / name).read_bytes())
        target.chmod(0o644)
