"""The direct console of a machine of its own, on one of its terminals.

casemate-python -I -B -m casemate.console TERMINAL --calls SOCKET --certificate FILE --first FILE
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificate

from casemate.console.app import App
from casemate.console.client import Calls
from casemate.console.terminal import Terminal
from casemate.errors import CasemateError, HostError

WAIT_SECONDS = 0.5
GONE = b"\r\n   %b.\r\n   This console comes back as soon as the kernel of the host answers.\r\n"


def main() -> int:
    """Show the console until the terminal or the kernel goes away; init starts it again."""
    parser = argparse.ArgumentParser()
    parser.add_argument("terminal", type=Path)
    parser.add_argument("--calls", type=Path, required=True)
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--first", type=Path, required=True)
    options = parser.parse_args()
    with ready(options.calls, read_certificate(options.certificate), options.first) as app:
        handle = os.open(options.terminal, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            Terminal(app, handle, handle, quits=False).run()
        except HostError as error:
            with suppress(OSError):  # the screen was cleared, and stays so until the kernel answers
                os.write(handle, GONE % error.reason.encode("ascii", "replace"))
        finally:
            os.close(handle)
    return 0


def ready(socket: Path, certificate: bytes, first: Path) -> App:
    """Return the app once the host is up: until then the terminal shows how it comes up."""
    while True:
        try:
            app = App(Calls(socket), certificate, first)
            if app.running():
                return app
            app.close()
        except CasemateError:
            pass
        time.sleep(WAIT_SECONDS)


def read_certificate(path: Path) -> bytes:
    """Return a certificate as DER, empty where there is none."""
    try:
        loaded = load_pem_x509_certificate(path.read_bytes())
        return loaded.public_bytes(serialization.Encoding.DER)
    except (OSError, ValueError):
        return b""


if __name__ == "__main__":
    sys.exit(main())
