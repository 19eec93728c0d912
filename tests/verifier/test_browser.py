"""The pages in headless Chromium: they are drawn, and nothing from a log is ever run."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.verifier.conftest import Web

from casemate.policy.measure import CommandLine
from casemate.policy.signedtext import join_signed
from casemate.testing.minifleet import MiniFleet
from casemate.testing.pki import shared_pki
from casemate.testing.smallhost import SmallImage, sign_reference
from casemate.verifier.enrol import Wanted

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

MARKUP = (
    "a=<script>document.title='owned'</script> b=<img/src=x/onerror=document.title='owned'> "
    "c=\"'><svg/onload=document.title='owned'> \x1b[31m \u202eleft-to-right"
)


class Door:
    """Passes requests on to the verifier with the session's cookie, since Chromium has none."""

    def __init__(self, web: Web) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = web.client.get(self.path)
                self.send_response(answer.status_code)
                for name in ("content-type", "content-security-policy"):
                    self.send_header(name, answer.headers[name])
                self.send_header("content-length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the library
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def look(web: Web, tmp_path: Path) -> Iterator[Callable[..., tuple[str, bytes]]]:
    """Open a page; returns its document after all scripts would have run, and its picture."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs the Debian package chromium")
    web.browse()
    door = Door(web)

    def run(path: str, *options: str) -> tuple[str, str]:
        done = subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
             "--hide-scrollbars", f"--user-data-dir={tmp_path}/profile", *options, door.url + path],
            capture_output=True, text=True, timeout=90, check=True,
        )  # fmt: skip
        return done.stdout, done.stderr

    def open_page(path: str, *options: str) -> tuple[str, bytes]:
        picture = tmp_path / "page.png"
        document, said = run(path, "--dump-dom", *options)
        assert "CONSOLE" not in said
        size = () if any("window-size" in one for one in options) else ("--window-size=1280,1800",)
        run(path, f"--screenshot={picture}", *size, *options)
        return document, picture.read_bytes()

    yield open_page
    door.close()


@pytest.fixture
def shown(web: Web, fleet: Callable[[int], MiniFleet]) -> MiniFleet:
    """Three hosts: a good one, one with another component, one whose log is full of markup."""
    made = fleet(3)
    web.service.book.add(sign_reference(SmallImage().reference()), "anna")
    policy = b'policy "hosts" version 1\npcr 12-13 events\npcr 7 per-host\n'
    signature = shared_pki().sign(policy, "certified")
    web.service.rules.add(join_signed(policy, signature), "anna")
    for name, address in made.addresses.items():
        web.service.enrolment.pull(Wanted(name, address), "anna")
        web.service.enrolment.approve(name, "anna")
        web.round(name)
    made.hosts["host-002"].reboot(SmallImage(contents={"nic.v00": b"evil"}))
    host = made.hosts["host-003"]
    host.extend(host.measurer.measure(CommandLine(MARKUP)))
    for name in made.addresses:
        web.round(name)
    return made


def test_every_page_is_drawn_without_a_message(
    shown: MiniFleet, look: Callable[..., tuple[str, bytes]], request: pytest.FixtureRequest
) -> None:
    del shown
    keep = request.config.rootpath / "build" / "screenshots"
    keep.mkdir(parents=True, exist_ok=True)
    for path, name, options in (
        ("/", "fleet", ()),
        ("/hosts/host-002", "host", ()),
        ("/hosts/host-002", "host-dark", ("--blink-settings=preferredColorScheme=0",)),
        ("/hosts/host-002", "host-phone", ("--window-size=390,1800",)),
        ("/references", "references", ()),
        ("/policies", "policies", ()),
    ):
        document, picture = look(path, *options)
        assert "</html>" in document
        assert len(picture) > 20_000
        (keep / f"{name}.png").write_bytes(picture)


def test_log_full_of_markup_runs_nothing(
    shown: MiniFleet, look: Callable[..., tuple[str, bytes]]
) -> None:
    del shown
    document, _ = look("/hosts/host-003")
    assert "<title>host-003 · Casemate verifier</title>" in document
    assert "owned" in document
    assert "<script" not in document
    assert "onerror=document" in document
    assert "<img" not in document
