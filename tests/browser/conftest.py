"""A host, a browser, and a page of it whose user has logged in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.browser.hostpages import EVIL

from casemate.testing.bootproof import measured_boot
from casemate.testing.chromium import Browser, chromium
from casemate.testing.fakefacts import fake_vm
from casemate.testing.fakekernel import PASSWORD, FakeKernel
from casemate.testing.hostsimulator import HostSimulator


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("volumes")
    (place / "datastore1").mkdir()
    return place


@pytest.fixture(scope="module")
def host(volumes: Path) -> Iterator[HostSimulator]:
    kernel = FakeKernel(vms=3, proof=measured_boot(), volumes=volumes)
    evil = fake_vm(3)
    kernel.state(replace(evil, config=replace(evil.config, name=EVIL, annotation=EVIL)))
    with HostSimulator(kernel).running() as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def page(browser: Browser, host: HostSimulator) -> Browser:
    """A page whose user has logged in with the keyboard alone."""
    browser.look()
    # Where no script runs: a page that is refreshing would ask on without its session.
    browser.go(f"https://127.0.0.1:{host.port}/ui/app.css")
    browser.until("location.pathname === '/ui/app.css' && document.readyState === 'complete'")
    browser.run("sessionStorage.clear()")
    browser.events.clear()
    browser.go(f"https://127.0.0.1:{host.port}/ui/?{time.monotonic_ns()}")
    browser.until("document.activeElement && document.activeElement.name === 'user'")
    browser.type("root")
    browser.press("Tab")
    browser.type(PASSWORD)
    browser.press("Enter")
    browser.until("document.body.dataset.ready === 'host'")
    return browser
