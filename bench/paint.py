"""When a browser first paints the verifier's page of a host with a long log; 10,000 events.

Headless Chromium, and the verifier with its pages over TLS on the loopback, in one run; beside it
the fleet's page, which is short. Usage: python bench/paint.py [EVENTS]
"""

from __future__ import annotations

import socket
import statistics
import sys
import tempfile
from pathlib import Path

from argon2 import PasswordHasher

from casemate.policy.measure import CommandLine
from casemate.testing.chromium import Browser, chromium
from casemate.testing.minifleet import MiniFleet
from casemate.testing.pki import issue, shared_pki
from casemate.testing.serving import serving
from casemate.testing.smallhost import SmallImage, ek_maker, sign_reference
from casemate.ui.verifier import render
from casemate.verifier import store
from casemate.verifier.app import make_app, make_server
from casemate.verifier.enrol import Wanted
from casemate.verifier.people import People, Role
from casemate.verifier.service import Service, Settings

LOOKS = 7
EVENTS = 10_000
GOAL_MS = 1000
PASSWORD = "correct horse battery"
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]"
ENTRY = "performance.getEntriesByType('navigation')[0]"


def prepare(place: Path, events: int) -> tuple[Service, MiniFleet]:
    """Make a verifier that has judged a host with so many events."""
    for level, pem in (
        ("certified", shared_pki().issuers["certified"].pem),
        ("ek", ek_maker().pem),
    ):
        (place / "trust" / level).mkdir(parents=True)
        (place / "trust" / level / "ca.pem").write_bytes(pem)
    service = Service(Settings(place))
    service.people = People(service.database, PasswordHasher(1, 8, 1))
    service.people.put("vera", Role.VIEWER, PASSWORD, "bench")
    fleet = MiniFleet(1, place)
    ((name, address),) = fleet.addresses.items()
    service.book.add(sign_reference(SmallImage().reference()), "bench")
    service.enrolment.pull(Wanted(name, address), "bench")
    service.enrolment.approve(name, "bench")
    host = fleet.hosts[name]
    while (found := len(host.log)) < events:
        host.extend(host.measurer.measure(CommandLine(f"option{found}=1")))
    with service.database.transaction() as step:
        store.due_now(step, name)
    for leased in store.lease_due(service.database, "bench", 60):
        service.rounds.pull(leased)
    return service, fleet


def looks(browser: Browser, url: str) -> tuple[list[float], list[float], int]:
    """Load a page again and again: ms to its first paint and to its last byte; elements."""
    paints, lasts, elements = [], [], 0
    for number in range(LOOKS):
        browser.go(f"{url}?look={number}")
        browser.until(
            f"location.search === '?look={number}' && !!{PAINT} && {ENTRY}.loadEventEnd > 0"
        )
        paints.append(float(str(browser.run(f"{PAINT}.startTime"))))
        lasts.append(float(str(browser.run(f"{ENTRY}.responseEnd"))))
        elements = int(str(browser.run("document.querySelectorAll('*').length")))
    return paints, lasts, elements


def main() -> None:
    """Print the table."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        service, fleet = prepare(place, events)
        identity = issue("verifier")
        (place / "tls.crt").write_bytes(identity.pem)
        (place / "tls.key").write_bytes(identity.key_pem)
        listener = socket.create_server(("127.0.0.1", 0))
        server = make_server(make_app(service, render), place / "tls.crt", place / "tls.key")
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with listener, serving(server, listener), chromium(place / "profile") as browser:
            browser.go(f"{url}/login")
            browser.until("document.querySelector('[name=user]') !== null")
            browser.run(
                f"document.querySelector('[name=user]').value = 'vera';"
                f"document.querySelector('[name=password]').value = '{PASSWORD}';"
                "document.querySelector('form').submit()"
            )
            browser.until("document.querySelector('a[href^=\"/hosts/\"]') !== null")
            print(
                f"{'page':<22}{'first paint ms':>16}{'worst':>8}{'last byte':>11}{'elements':>10}"
            )
            for title, path in (("fleet", "/"), (f"host, {events:,} events", "/hosts/host-001")):
                paints, lasts, elements = looks(browser, url + path)
                median = statistics.median(paints)
                goal = f"  (goal: {GOAL_MS})" if events == EVENTS and path != "/" else ""
                print(
                    f"{title:<22}{median:>16.0f}{max(paints):>8.0f}"
                    f"{statistics.median(lasts):>11.0f}{elements:>10}{goal}"
                )
        fleet.close()
        service.close()


if __name__ == "__main__":
    main()
