"""Files over /folder against the least that TLS and a disk cost, in one run.

The peer is a loop over a TLS connection that writes what it gets to a file and synchronises it, or
sends a file: no HTTP, no sessions, no second process. Usage: python bench/files.py [--size MIB]
"""

from __future__ import annotations

import argparse
import http.client
import os
import socket
import ssl
import statistics
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

from casemate.hostd.main import tls_context
from casemate.testing.fakekernel import PASSWORD, USER, FakeKernel
from casemate.testing.hostsimulator import HostSimulator, write_certificate

PIECE = 1 << 18
QUERY = "?dcPath=ha-datacenter&dsName=datastore1"
BASIC = {"Authorization": "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()}


def trusting(certificate: bytes) -> ssl.SSLContext:
    """Return a client's context that trusts one certificate."""
    return ssl.create_default_context(cadata=certificate.decode())


def serve_plain(listener: socket.socket, context: ssl.SSLContext, place: Path, size: int) -> None:
    """Take a file on odd connections, give it on even ones, until the listener closes."""
    number = 0
    while True:
        try:
            raw, _ = listener.accept()
        except OSError:
            return
        number += 1
        with context.wrap_socket(raw, server_side=True) as peer:
            if number % 2:
                with place.open("wb") as file:
                    left = size
                    while left and (data := peer.recv(PIECE)):
                        file.write(data)
                        left -= len(data)
                    file.flush()
                    os.fsync(file.fileno())
                peer.sendall(b"!")
            else:
                with place.open("rb") as file:
                    while data := file.read(PIECE):
                        peer.sendall(data)


def plain(port: int, context: ssl.SSLContext, content: bytes) -> tuple[float, float]:
    """Return the seconds of one upload and one download."""
    took = []
    for sends in (True, False):
        begin = time.perf_counter()
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as peer,
        ):
            if sends:
                peer.sendall(content)
                peer.recv(1)
            else:
                while peer.recv(PIECE):
                    pass
        took.append(time.perf_counter() - begin)
    return took[0], took[1]


def folder(port: int, context: ssl.SSLContext, content: bytes) -> tuple[float, float]:
    """Return the seconds of one upload and one download over /folder."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context)
    took = []
    for method in ("PUT", "GET"):
        begin = time.perf_counter()
        connection.request(method, f"/folder/x{QUERY}", content if method == "PUT" else None, BASIC)
        reply = connection.getresponse()
        while reply.read(PIECE):
            pass
        took.append(time.perf_counter() - begin)
    connection.close()
    return took[0], took[1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256, help="MiB")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    content = os.urandom(options.size << 20)
    with (
        tempfile.TemporaryDirectory() as place,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        store = Path(place, "volumes/datastore1")
        store.mkdir(parents=True)
        certificate, key = write_certificate(Path(place))
        arguments = (listener, tls_context(certificate, key), Path(place, "plain"), len(content))
        threading.Thread(target=serve_plain, args=arguments, daemon=True).start()
        with HostSimulator(FakeKernel(volumes=store.parent)).running() as host:
            sides: dict[str, Callable[[], tuple[float, float]]] = {
                "plain": lambda: plain(
                    listener.getsockname()[1], trusting(certificate.read_bytes()), content
                ),
                "/folder": lambda: folder(host.port, trusting(host.certificate), content),
            }
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
            for _ in range(options.runs):
                for name, side in sides.items():
                    found[name].append(side())
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in found.items()
    }
    for number, what in enumerate(("up", "down")):
        peer, ours = medians["plain"][number], medians["/folder"][number]
        speed = options.size / ours
        print(f"{what:5} plain {peer:.2f} s  /folder {ours:.2f} s  ratio {ours / peer:.2f}")
        print(f"      {speed:.0f} MiB/s")


if __name__ == "__main__":
    main()
