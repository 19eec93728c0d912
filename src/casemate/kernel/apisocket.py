"""The socket that the API listens on: opened before hostd, and kept while hostd restarts."""

from __future__ import annotations

import os
import socket

from casemate.errors import HostError


def listen(port: int) -> socket.socket:
    """Open the API's listening socket (IPv6 and IPv4). Raises HostError with a remedy."""
    try:
        opened = socket.create_server(
            ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512
        )
    except OSError:
        try:
            opened = socket.create_server(("0.0.0.0", port), backlog=512)  # noqa: S104 (the API is meant to be reached)
        except OSError as error:
            raise HostError(
                f"port {port} cannot be opened for the API: {os.strerror(error.errno or 0)}",
                component="api",
                remedy="Name another one with --port, or stop the program that has it.",
            ) from error
    opened.set_inheritable(True)
    return opened
