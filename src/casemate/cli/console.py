"""``casemate console``: the host's direct console in this terminal."""

from __future__ import annotations

import argparse
import os
import sys

from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificate

from casemate.cli.calls import Calls
from casemate.cli.host import need_root
from casemate.console.app import App
from casemate.console.terminal import Terminal
from casemate.errors import HostError
from casemate.kernel.home import Home, find_home


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    console = commands.add_parser("console", help="the direct console: like the screen of a host")
    console.set_defaults(func=_console)


def _console(options: argparse.Namespace) -> int:
    need_root("casemate console")
    if not (os.isatty(0) and os.isatty(1)):
        raise HostError(
            "the direct console needs a terminal",
            code="no-terminal",
            remedy="Run it in one; scripts use casemate status and esxcli.",
        )
    home = find_home(options.home)
    with Calls(home.calls_socket) as calls:
        Terminal(
            App(calls, certificate(home)), sys.stdin.fileno(), sys.stdout.fileno(), quits=True
        ).run()
    return 0


def certificate(home: Home) -> bytes:
    """Return the API's certificate (DER), empty where there is none."""
    try:
        data = (home.tls / "rui.crt").read_bytes()
        return load_pem_x509_certificate(data).public_bytes(serialization.Encoding.DER)
    except (OSError, ValueError):
        return b""
