"""Every page and every action of the verifier, in headless Chromium, over TLS, by its users."""

from __future__ import annotations

import json
import os
import time
from base64 import b64decode
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from tests.verifier.conftest import PASSWORD, Web, make_anchors, serve_web

from casemate.calls import evidence as wire
from casemate.calls.messages import ActivationReply
from casemate.errors import StateError
from casemate.policy.signedtext import join_signed
from casemate.testing.chromium import Browser, chromium, find_chromium
from casemate.testing.minifleet import HonestHost, MiniFleet
from casemate.testing.pki import shared_pki
from casemate.testing.smallhost import SmallHost, SmallImage, sign_reference
from casemate.testing.softkeys import SoftEk, SoftKey
from casemate.verifier import alarmstore
from casemate.verifier.enrol import Wanted

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium here"),
]

SECONDS = 90.0
GOOD, FAILING, REPLACED, WAITING, JUDGED = (f"host-{number:03}" for number in range(1, 6))
EVIL = SmallImage(contents={"nic.v00": b"evil"})
POLICY = b'policy "hosts" version 1\npcr 12-13 events\npcr 7 per-host\n'
PHONE = 360


class User:
    """Somebody at the browser: sees text, follows links, fills in and presses buttons."""

    def __init__(self, web: Web, browser: Browser) -> None:
        self.web, self.browser = web, browser
        self._looks = count()

    def until(self, script: str) -> None:
        """Wait until the script gives true, through changes of the page."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                if self.browser.run(script):
                    return
            except StateError:
                pass  # between two pages
            if time.monotonic() > deadline:
                raise TimeoutError(f"{script} in {self.text()}")
            time.sleep(0.05)

    def visit(self, path: str) -> str:
        mark = f"look={next(self._looks)}"
        mark = f"{'&' if '?' in path else '?'}{mark}"
        self.browser.go(f"{self.web.client.base_url}{path}{mark}")
        self.until(f"location.href.endsWith('{mark}') && document.readyState === 'complete'")
        return self.text()

    def text(self) -> str:
        return str(self.browser.run("document.body.innerText"))

    def buttons(self) -> set[str]:
        found = self.browser.run("[...document.querySelectorAll('button')].map(b => b.innerText)")
        assert isinstance(found, list)
        return set(found)

    def press(self, button: str, **values: str) -> str:
        """Fill in a button's form and press it; returns the text of the page that comes."""
        self.browser.run(
            f"{{ window.old = true; const button = [...document.querySelectorAll('button')].find("
            f"b => b.innerText === {json.dumps(button)});"
            f"for (const [name, value] of Object.entries({json.dumps(values)}))"
            " button.form.elements[name].value = value; button.click(); }"
        )
        self.until("!window.old && document.readyState === 'complete'")
        return self.text()

    def enter(self, name: str, password: str = PASSWORD) -> str:
        """Log in with the keyboard alone."""
        self.browser.send("Network.clearBrowserCookies")
        self.browser.go(f"{self.web.client.base_url}/login")
        self.until("document.activeElement && document.activeElement.name === 'user'")
        self.browser.run("window.old = true")
        self.browser.type(name)
        self.browser.press("Tab")
        self.browser.type(password)
        self.browser.press("Enter")
        self.until("!window.old && document.readyState === 'complete'")
        return self.text()

    def sees(self, path: str, text: str) -> None:
        """Look at a page again and again until it has the text."""
        deadline = time.monotonic() + SECONDS
        while text not in (shown := self.visit(path)):
            assert time.monotonic() < deadline, shown
            time.sleep(0.2)

    def attest(self, host: str, text: str) -> None:
        self.visit(f"/hosts/{host}")
        self.press("Attest now")
        self.sees(f"/hosts/{host}", text)

    def keep(self, name: str) -> None:
        """Keep the page's picture where the environment says so."""
        if place := os.environ.get("CASEMATE_SCREENSHOTS"):
            self.browser.picture(Path(place) / f"{name}.png")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    place = tmp_path_factory.mktemp("verifier")
    make_anchors(place)
    with serve_web(place) as served:
        served.service.book.add(sign_reference(SmallImage().reference()), "anna")
        served.service.start()
        yield served


@pytest.fixture(scope="module")
def hosts(web: Web, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, SmallHost]]:
    """Hosts of which all but one are approved and trusted."""
    fleet = MiniFleet(5, tmp_path_factory.mktemp("hosts"))
    for name, address in fleet.addresses.items():
        web.service.enrolment.pull(Wanted(name, address), "anna")
        if name != WAITING:
            web.service.enrolment.approve(name, "anna")
    yield fleet.hosts
    fleet.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def user(web: Web, hosts: dict[str, SmallHost], browser: Browser) -> User:
    assert hosts
    browser.look(height=1600)
    browser.events.clear()
    return User(web, browser)


@pytest.fixture
def olga(user: User) -> Iterator[User]:
    """An operator who has logged in; no page may complain."""
    user.enter("olga")
    yield user
    assert not user.browser.complaints()


def test_wrong_password_is_told_and_a_right_one_opens_the_fleet_until_logged_out(
    user: User,
) -> None:
    told = user.enter("olga", "wrong")
    assert "wrong" in told.lower()
    assert "Log out" not in user.buttons()
    fleet = user.enter("olga")
    assert "Fleet" in fleet
    assert "olga (operator)" in fleet
    assert "Log in" in user.press("Log out")
    user.browser.go(f"{user.web.client.base_url}/audit")
    user.until("location.pathname === '/login' && document.readyState === 'complete'")


def test_host_that_waits_is_approved_and_asked_by_itself(olga: User) -> None:
    assert "pending" in olga.visit(f"/hosts/{WAITING}")
    olga.press("Approve this TPM")
    assert "Approve this TPM" not in olga.buttons()
    olga.sees(f"/hosts/{WAITING}", "✓ trusted")


def test_invited_host_is_there_and_is_approved_once_its_agent_has_called(olga: User) -> None:
    _, secret = olga.web.service.enrolment.invite(Wanted("far-away"), "anna")
    assert "its agent has not called yet" in olga.visit("/hosts/far-away")
    assert "has not shown its TPM yet" in olga.press("Approve this TPM")
    olga.browser.events.clear()  # the refusal's status
    source, headers = HonestHost(SmallHost()), {"authorization": f"Bearer {secret}"}
    post = olga.web.client.post
    shown = wire.encode(source.identity())
    challenge = post("/agent/v1/identity", content=shown, headers=headers).json()
    proof = source.host.activate(
        *(b64decode(challenge[name]) for name in ("credentialBlob", "encryptedSecret"))
    )
    answer = wire.encode(ActivationReply(proof))
    assert post("/agent/v1/activate", content=answer, headers=headers).status_code == 200
    olga.visit("/hosts/far-away")
    olga.press("Approve this TPM")
    assert "Approve this TPM" not in olga.buttons()


def test_host_is_attested_again_and_its_rounds_quotes_and_events_are_seen(olga: User) -> None:
    olga.attest(GOOD, "✓ trusted")
    text = olga.visit(f"/hosts/{GOOD}")
    for heading in ("Boot", "Components", "PCRs and their proof", "Quotes", "Event log"):
        assert heading in text, heading
    at = [text.index(f"\n{one}\n") for one in ("Boot", "Components", "Quotes", "Event log")]
    assert at == sorted(at)
    quote = "document.querySelector('[aria-labelledby=quotes] details')"
    assert olga.browser.run(f"{quote}.open") is False
    olga.browser.run(f"{quote}.querySelector('summary').click()")
    assert olga.browser.run(f"{quote}.open") is True
    assert "Nonce" in str(olga.browser.run(f"{quote}.innerText"))
    round_ = "document.querySelector('[aria-label=Rounds] tbody a')"
    number = olga.browser.run(f"{round_}.innerText")
    olga.browser.run(f"window.old = true; {round_}.click()")
    olga.until("!window.old && document.readyState === 'complete'")
    assert f"Round {number} of" in olga.text()


def test_failed_host_says_what_is_wrong_and_its_latch_is_cleared_with_a_reason(
    olga: User, hosts: dict[str, SmallHost]
) -> None:
    olga.sees(f"/hosts/{FAILING}", "✓ trusted")
    hosts[FAILING].reboot(EVIL)
    olga.attest(FAILING, "failed-latched")
    text = olga.visit(f"/hosts/{FAILING}")
    assert "What is wrong" in text
    assert "nic.v00" in text
    olga.keep("failed")
    assert "standing alarm" in olga.visit("/")
    assert "stands" in olga.visit("/alarms")
    olga.keep("alarms")
    # The log against a host that runs what it should: the changed driver is what differs.
    olga.visit(f"/hosts/{FAILING}")
    assert f"the last log of {GOOD}" in olga.press("Compare", against=GOOD)
    assert olga.browser.run(
        "[...document.querySelectorAll('tr.bad')].some(r => r.innerText.includes('nic.v00'))"
    )
    olga.keep("compared")
    hosts[FAILING].reboot(SmallImage())
    olga.attest(FAILING, "failed-latched")
    olga.visit(f"/hosts/{FAILING}")
    olga.browser.run(
        "[...document.querySelectorAll('button')].find(b => b.innerText === 'Clear latch').click()"
    )
    assert olga.browser.run("document.querySelector('#why:invalid') !== null")
    olga.press("Clear latch", why="the driver is replaced")
    olga.attest(FAILING, "✓ trusted")
    assert "Clear latch" not in olga.buttons()
    assert "the driver is replaced" in olga.visit("/audit")


def test_another_tpm_needs_two_people(olga: User, hosts: dict[str, SmallHost]) -> None:
    olga.sees(f"/hosts/{REPLACED}", "✓ trusted")
    hosts[REPLACED].ek, hosts[REPLACED].ak = SoftEk(), SoftKey()
    olga.attest(REPLACED, "identity-conflict")
    olga.visit(f"/hosts/{REPLACED}")
    told = olga.press("Propose the new TPM")
    assert "olga proposes another TPM" in told
    olga.keep("proposal")
    assert "Another TPM has answered since" in told
    assert "Approve the new TPM" not in olga.buttons()
    olga.enter("anna")
    olga.visit(f"/hosts/{REPLACED}")
    olga.press("Approve the new TPM")
    assert "proposes another TPM" not in olga.text()
    olga.attest(REPLACED, "✓ trusted")
    audit = olga.visit("/audit")
    assert "propose-tpm" in audit
    assert "approve-tpm" in audit


def test_policy_is_shown_rehearsed_and_assigned_and_what_is_a_hosts_own_is_approved(
    olga: User,
) -> None:
    body = join_signed(POLICY, shared_pki().sign(POLICY, "certified"))
    headers = olga.web.login("olga")
    post = olga.web.client.post
    told = post("/api/v1/policy-rehearsal?hosts=all", content=body, headers=headers)
    assert told.status_code == 200
    assert "casemate verifier policy check" in olga.visit("/policies")
    assert post("/api/v1/policies", content=body, headers=headers).status_code == 200
    text = olga.visit("/policies")
    assert "in force" in text
    olga.browser.run("document.querySelector('details summary').click()")
    assert "pcr 12-13 events" in olga.text()
    olga.sees(f"/hosts/{JUDGED}", "✓ trusted")
    olga.press("Assign", policy="hosts")
    olga.attest(JUDGED, "Approve what is this host's own")
    assert "! not approved yet" in olga.text()
    olga.keep("own")
    olga.press("Approve what is this host's own")
    olga.attest(JUDGED, "✓ trusted")
    assert JUDGED in olga.visit("/policies")
    olga.visit(f"/hosts/{JUDGED}")
    olga.press("Assign", policy="")
    assert JUDGED not in olga.visit("/policies")


def test_reference_is_added_and_ended(olga: User) -> None:
    headers = olga.web.login("olga")
    body = sign_reference(SmallImage(contents={"nic.v00": b"the next driver"}).reference())
    told = olga.web.client.post("/api/v1/references", content=body, headers=headers)
    assert told.status_code == 200
    assert "overlap until" in olga.visit("/references").replace("\n", " ")
    identifier = told.json()["identifier"]
    path = f"/api/v1/references/{identifier}"
    olga.web.client.request("DELETE", path, json={"why": "recalled"}, headers=headers)
    olga.visit("/references")
    row = f"document.querySelector('[title=\"{identifier}\"]').closest('tr').innerText"
    assert "in force" not in str(olga.browser.run(row))


def test_verifier_that_is_gone_for_good_is_forgotten(olga: User) -> None:
    with olga.web.service.database.transaction() as step:
        alarmstore.beat(step, "dead", 0.0)
        step.run("UPDATE worker SET seen=seen-60 WHERE name='dead'")
    olga.sees("/alarms", "It is gone for good")
    olga.press("It is gone for good")
    assert "It is gone for good" not in olga.buttons()


def test_fleet_is_searched_filtered_and_sorted(olga: User) -> None:
    assert GOOD not in olga.press("Log out")
    olga.enter("olga")
    text = olga.press("Search", q=GOOD)
    assert "1 host" in text
    assert WAITING not in str(olga.browser.run("document.querySelector('tbody').innerText"))
    olga.visit("/?sort=-name")
    names = olga.browser.run("[...document.querySelectorAll('tbody th')].map(c => c.innerText)")
    assert isinstance(names, list)
    assert names == sorted(names, reverse=True)


def test_viewer_has_no_button_for_what_he_may_not_do(user: User) -> None:
    user.enter("vera")
    for path in (
        *("/", "/references", "/policies", "/alarms", "/audit"),
        *(f"/hosts/{name}" for name in (GOOD, FAILING, REPLACED, WAITING, JUDGED)),
    ):
        user.visit(path)
        assert user.buttons() <= {"Log out", "Search", "Compare"}, path
        forms = "[...document.querySelectorAll('form[method=post]')].map(f => f.action)"
        assert user.browser.run(forms) == [f"{user.web.client.base_url}/logout"], path
    assert "chain whole" in user.visit("/audit")
    assert not user.browser.complaints()


def test_no_page_is_wider_than_a_phone_and_all_are_drawn_light_and_dark(olga: User) -> None:
    for width, dark in ((1200, False), (1200, True), (PHONE, False)):
        olga.browser.look(width=width, height=2400, dark=dark)
        kind = "phone" if width == PHONE else "dark" if dark else "light"
        for path in ("/", "/references", "/policies", "/alarms", "/audit", f"/hosts/{FAILING}"):
            olga.visit(path)
            assert olga.browser.run("document.documentElement.scrollWidth <= innerWidth"), path
            assert olga.browser.run("innerWidth") == width, path
            olga.keep(f"{kind}-{path.strip('/').replace('/', '-') or 'fleet'}")
    olga.press("Log out")
    olga.keep("phone-login")
