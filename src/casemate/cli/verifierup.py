"""``casemate verifier up`` and ``down``: the process itself."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import socket
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from casemate.errors import HostError, NotFoundError, StateError
from casemate.kernel.certificate import ensure_certificate
from casemate.kernel.files import write_file
from casemate.policy.levels import Level
from casemate.ui.verifier import render
from casemate.verifier.app import bus_handler, make_app, make_server, settle
from casemate.verifier.bus import Bus, Place
from casemate.verifier.oidc import provider_from
from casemate.verifier.service import FIRST_USER, Service, Settings

DEFAULT_STATE = Path("/var/lib/casemate-verifier")
DEFAULT_PORT = 8443
START_SECONDS = 60.0
"""How long ``--detach`` waits until the verifier listens."""

STOP_SECONDS = 60.0


def add_parsers(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``up`` and ``down``."""
    up = actions.add_parser("up", help="run a verifier")
    up.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"HTTPS port ({DEFAULT_PORT})")
    up.add_argument("--address", default="0.0.0.0", help="address to listen on")  # noqa: S104 (a service)
    up.add_argument("--database", help="postgresql://...; SQLite in the state directory otherwise")
    up.add_argument("--trust", type=Path, help="take anchors over: <level>/*.pem and ek/*")
    up.add_argument("--webhook", help="URL that gets alarms as JSON")
    up.add_argument(
        "--webhook-secret-file",
        type=Path,
        help="file with the key that signs what the webhook gets",
    )
    up.add_argument("--syslog", help="host:port (UDP) or socket that gets alarms")
    up.add_argument("--nats", help="tls://HOST:PORT of a NATS server with JetStream, for agents")
    up.add_argument("--nats-ca", help="certificate file that vouches for it")
    up.add_argument("--nats-credentials", help="file with this verifier's NATS credentials")
    up.add_argument("--oidc-issuer", help="URL of an OpenID provider; - for none")
    up.add_argument("--oidc-client", help="client id that it knows this verifier by")
    up.add_argument("--oidc-secret-file", type=Path, help="file with the client's secret")
    up.add_argument("--oidc-url", help="https://HOST:PORT of this verifier, as browsers see it")
    up.add_argument("--oidc-claim", help="claim with roles or groups (groups)")
    up.add_argument("--oidc-roles", help="VALUE=ROLE,...: what the claim's values mean")
    up.add_argument("--oidc-ca", help="certificate file that vouches for the provider")
    up.add_argument(
        "--no-latch",
        action="store_true",
        default=None,
        help="a good round ends a failure without an operator",
    )
    up.add_argument("--detach", action="store_true", help="return when it listens")
    up.set_defaults(func=_up)
    down = actions.add_parser("down", help="stop the verifier of a state directory")
    down.set_defaults(func=_down)
    for one in (up, down):
        one.add_argument("--state", type=Path, default=DEFAULT_STATE, help="its directory")
        one.add_argument("--json", action="store_true", help="print JSON")


def open_service(state: Path) -> Service:
    """Open what ``up`` has made. Raises HostError where nothing was."""
    settings = _saved(state)
    if settings is None:
        raise HostError(
            f"no verifier was set up in {state}",
            component=str(state),
            remedy="Start it first: casemate verifier up.",
        )
    return Service(settings)


def _saved(state: Path) -> Settings | None:
    try:
        text = (state / "settings.json").read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(
            f"{state} cannot be read: {error.strerror}",
            component=str(state),
            remedy="Run the command as the user that the verifier runs as.",
        ) from error
    return Settings(state, **json.loads(text))


def _settings(options: argparse.Namespace) -> Settings:
    """Return the settings of before with what the options change, and keep them."""
    state: Path = options.state
    before = _saved(state) or Settings(state)
    given = {
        "database": options.database,
        "webhook": options.webhook,
        "webhook_secret": _word(options.webhook_secret_file),
        "syslog": options.syslog,
        "nats": options.nats,
        "nats_ca": options.nats_ca,
        "nats_credentials": options.nats_credentials,
        "latch": None if options.no_latch is None else not options.no_latch,
    }
    given["oidc"] = _oidc(options, dict(before.oidc))
    values = asdict(before) | {k: v for k, v in given.items() if v is not None}
    del values["state"]
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    text = json.dumps(values, indent=1) + "\n"
    write_file(state / "settings.json", text.encode(), mode=0o600)
    return Settings(state, **values)


def _word(path: Path | None) -> str | None:
    """Return a secret from a file: whoever lists processes reads their arguments."""
    if path is None:
        return None
    try:
        return path.read_text().strip()
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}") from error


def _oidc(options: argparse.Namespace, before: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenID provider's settings; checked before anything is started."""
    if options.oidc_issuer == "-":
        return {}
    given: dict[str, Any] = {
        name: getattr(options, f"oidc_{name}")
        for name in ("issuer", "client", "url", "claim", "ca")
    }
    if options.oidc_secret_file:
        given["secret"] = _word(options.oidc_secret_file)
    if options.oidc_roles:
        pairs = (one.rpartition("=") for one in options.oidc_roles.split(","))
        given["roles"] = {value.strip(): role.strip() for value, _, role in pairs}
    after = before | {key: value for key, value in given.items() if value is not None}
    provider_from(after)
    return after


def _take_anchors(source: Path, target: Path) -> None:
    for name in (*(level.value for level in Level), "ek"):
        place = target / name
        place.mkdir(parents=True, exist_ok=True)
        for path in sorted((source / name).glob("*")):
            if path.suffix in {".pem", ".crt", ".der"}:
                shutil.copyfile(path, place / path.name)


def _up(options: argparse.Namespace) -> int:
    if options.detach:
        return _detach(options)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = _settings(options)
    (settings.state / "trust").mkdir(exist_ok=True)
    if options.trust:
        _take_anchors(options.trust, settings.state / "trust")
    tls = ensure_certificate(
        settings.state / "tls", socket.gethostname(), os.getuid(), datetime.now(UTC)
    )
    # The server hands a signal on once it has stopped: unhandled, it would end us before we close.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    service = Service(settings)
    bus = _bus(settings, service)
    try:
        password = service.first_user()
        listener = _listen(options.address, options.port)
        port = int(listener.getsockname()[1])
        _announce(options, settings.state, port, password)
        server = make_server(make_app(service, render), tls / "rui.crt", tls / "rui.key")
        service.start()
        settle()
        if bus is not None:
            bus.start()
        server.run(sockets=[listener])
    finally:
        if bus is not None:
            bus.close()
        service.close()
        (settings.state / "running.json").unlink(missing_ok=True)
    return 0


def _bus(settings: Settings, service: Service) -> Bus | None:
    if not settings.nats:
        return None
    place = Place(
        settings.nats,
        Path(settings.nats_ca) if settings.nats_ca else None,
        Path(settings.nats_credentials) if settings.nats_credentials else None,
    )
    return Bus(place, bus_handler(service))


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise HostError(
            f"{address}:{port} cannot be listened on: {error.strerror}",
            component=f"{address}:{port}",
            remedy="Choose another --port, or stop what uses it.",
        ) from error
    listener.listen(512)
    listener.setblocking(False)
    return listener


def _announce(options: argparse.Namespace, state: Path, port: int, password: str) -> None:
    facts = {"pid": os.getpid(), "port": port, "url": f"https://{socket.gethostname()}:{port}/"}
    (state / "running.json").write_text(json.dumps(facts))
    if options.json:
        first = {"user": FIRST_USER, "password": password} if password else {}
        print(json.dumps({**facts, **first}), flush=True)
        return
    print(f"Verifier: {facts['url']}  (state in {state})")
    if password:
        print(f"First user, shown this once: {FIRST_USER}  {password}")
    print(
        "Next: casemate verifier reference add FILE, then casemate verifier enroll HOST", flush=True
    )


def _running(state: Path) -> dict[str, object] | None:
    """Return what a living verifier of this directory has announced."""
    try:
        facts: dict[str, object] = json.loads((state / "running.json").read_text())
        words = Path(f"/proc/{facts['pid']}/cmdline").read_bytes()
    except (OSError, ValueError, KeyError):
        return None
    return facts if b"verifier" in words else None


def _detach(options: argparse.Namespace) -> int:
    state: Path = options.state
    if _running(state):
        raise StateError(
            f"a verifier runs in {state} already",
            component=str(state),
            remedy="Stop it: casemate verifier down.",
        )
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    log, told = state / "verifier.log", state / "first-words"
    told.unlink(missing_ok=True)
    words = [word for word in sys.argv[1:] if word != "--detach"]
    code = "import sys; from casemate.cli.main import main; sys.exit(main())"
    writing = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", code, *words],
        dict(os.environ),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(told), writing, 0o600),
            (os.POSIX_SPAWN_OPEN, 2, str(log), writing, 0o600),
        ],
        setsid=True,
    )
    deadline = time.monotonic() + START_SECONDS
    while not _running(state):
        done, _ = os.waitpid(pid, os.WNOHANG)
        if done or time.monotonic() > deadline:
            raise HostError(
                f"the verifier did not start: {_last_line(log)}",
                component=str(log),
                remedy=f"Look at {log}.",
            )
        time.sleep(0.1)
    print(told.read_text(), end="", flush=True)
    told.unlink()  # the first password is in it
    return 0


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"


def _down(options: argparse.Namespace) -> int:
    facts = _running(options.state)
    if facts is None:
        raise StateError(f"no verifier runs in {options.state}", component=str(options.state))
    pid = int(str(facts["pid"]))
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while _running(options.state):
        if time.monotonic() > deadline:
            raise HostError(f"process {pid} does not stop", component=str(pid))
        time.sleep(0.1)
    print(json.dumps({"stopped": pid}) if options.json else f"Stopped {pid}.")
    return 0
