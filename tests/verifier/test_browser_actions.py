"""Every page and every action of the verifier, in headless Chromium, over TLS, by its users."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.verifier.browsing import User
from tests.verifier.conftest import PASSWORD, Web, make_anchors, serve_web

from casemate.calls import evidence as wire
from casemate.calls.messages import ActivationReply
from casemate.policy.signedtext import join_signed
from casemate.testing.chromium import Browser, chromium, find_chromium
from casemate.testing.minifleet import HonestHost, MiniFleet
from casemate.testing.pki import shared_pki
from casemate.testing.rims import write_rim
from casemate.testing.smallhost import SmallHost, SmallImage, sign_reference
from casemate.testing.softkeys import SoftEk, SoftKey
from casemate.verifier import alarmstore, roundstore, rulestore
from casemate.verifier.enrol import Wanted
from casemate.verifier.people import Role

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium here"),
]

GOOD, FAILING, REPLACED, WAITING, JUDGED = (f"host-{number:03}" for number in range(1, 6))
EVIL = SmallImage(contents={"nic.v00": b"evil"})
POLICY = b'policy "hosts" version 1\npcr 12-13 events\npcr 7 per-host\n'
PHONE = 360


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
    olga.visit("/")
    olga.unfold("Enrol a host")
    told = olga.press("Enrol", name="far-away", mode="push")
    assert "shown this once" in told
    olga.keep("invited")
    secret = olga.browser.run("document.querySelector('.secret').innerText")
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
    good = olga.web.service.database
    with good.transaction() as step:
        number = str(roundstore.rounds_of(step, GOOD)[-1].number)
    told = olga.press("Compare", **{"against": GOOD, "against-round": number})
    assert f"log of round {number} of {GOOD}" in told
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
    assert "Propose the new TPM" not in olga.buttons()
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


def test_policy_is_tried_put_in_force_and_assigned_and_what_is_a_hosts_own_is_approved(
    olga: User, tmp_path: Path
) -> None:
    olga.sees(f"/hosts/{JUDGED}", "✓ trusted")
    file = tmp_path / "hosts.policy.signed"
    file.write_bytes(join_signed(POLICY, shared_pki().sign(POLICY, "certified")))
    olga.visit("/policies")
    olga.attach("/policies", file=file)
    told = olga.press("Who would fail?", hosts="all")
    assert "The policy hosts 1 tried" in told
    assert JUDGED in told
    olga.keep("tried-policy")
    assert "None yet" in olga.visit("/policies")
    olga.attach("/policies", file=file)
    olga.press("Put in force")
    text = olga.visit("/policies")
    assert "in force" in text
    olga.browser.run("document.querySelector('details summary').click()")
    assert "pcr 12-13 events" in olga.text()
    runtime = tmp_path / "runtime"
    runtime.write_bytes(b"{}\n")
    olga.attach("/policies/more", file=runtime)
    assert "is not signed" in olga.press("Add to it", kind="runtime")
    olga.browser.events.clear()  # the refusal's status
    olga.visit(f"/hosts/{JUDGED}")
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


def test_reference_is_tried_put_in_force_and_ended(olga: User, tmp_path: Path) -> None:
    olga.sees(f"/hosts/{GOOD}", "✓ trusted")
    body = sign_reference(SmallImage(contents={"nic.v00": b"the next driver"}).reference())
    (file := tmp_path / "next.reference.json").write_bytes(body)
    olga.visit("/references")
    olga.attach("/references", file=file)
    told = olga.press("Who would fail?", overlap="5")
    row = f"[...document.querySelectorAll('tbody tr')].find(r => r.innerText.includes('{GOOD}'))"
    shown = str(olga.browser.run(f"{row}.innerText"))
    assert "fail" in shown
    assert "nic.v00" in shown
    assert "No host was asked" in told
    for width, dark in ((PHONE, False), (1200, True), (1200, False)):
        olga.browser.look(width=width, height=1600, dark=dark)
        assert olga.browser.run("document.documentElement.scrollWidth <= innerWidth")
        olga.keep(f"tried-{width}{'-dark' if dark else ''}")
    told = olga.press("Put in force")
    assert "overlap until" in told.replace("\n", " ")
    with olga.web.service.database.transaction() as step:
        new = rulestore.references(step)[0].identifier
    end = f"document.querySelector('form[action=\"/references/{new}/withdraw\"]')"
    olga.browser.run(
        f"{{ window.old = true; {end}.elements.why.value = 'recalled';"
        f" {end}.querySelector('button').click(); }}"
    )
    olga.until("!window.old && document.readyState === 'complete'")
    row = f"document.querySelector('[title=\"{new}\"]').closest('tr').innerText"
    assert "in force" not in str(olga.browser.run(row))
    assert "recalled" in olga.visit("/audit")


def test_rim_and_its_log_are_tried(olga: User, tmp_path: Path) -> None:
    log = SmallHost().log_bytes()
    rim = write_rim(log, name="log")
    parts = {"rim": rim, "log": log, "signature": shared_pki().sign(rim, "certified")}
    for name, data in parts.items():
        (tmp_path / name).write_bytes(data)
    olga.visit("/references")
    olga.unfold("Add a TCG RIM with the log it lists")
    olga.attach("/references/rim", **{name: tmp_path / name for name in parts})
    assert "The reference rims 01 tried" in olga.press("Who would fail by the RIM?", name="rims")


def test_users_are_made_changed_and_removed_by_an_administrator(user: User) -> None:
    user.enter("anna")
    user.visit("/users")
    told = user.press("Add user", name="nils", role="viewer", password=PASSWORD)
    assert "nils" in told
    path = "/users/nils"
    for action, field, value in (("role", "role", "operator"), ("password", "password", "9" * 12)):
        form = f"document.querySelector('form[action=\"{path}/{action}\"]')"
        user.browser.run(
            f"{{ window.old = true; {form}.elements.{field}.value = '{value}';"
            f" {form}.querySelector('button').click(); }}"
        )
        user.until("!window.old && document.readyState === 'complete'")
    for width, dark in ((PHONE, False), (1200, True), (1200, False)):
        user.browser.look(width=width, height=1600, dark=dark)
        assert user.browser.run("document.documentElement.scrollWidth <= innerWidth")
        user.keep(f"users-{width}{'-dark' if dark else ''}")
    assert "nils (operator)" in user.enter("nils", "9" * 12)
    assert "Users" not in str(user.browser.run("document.querySelector('nav').innerText"))
    user.enter("anna")
    user.visit("/users")
    user.browser.run(
        "document.querySelector('[action=\"/users/nils/remove\"]').closest('details').open = true"
    )
    assert "nils" not in user.press("Remove nils")
    assert not user.browser.complaints()


def test_own_password_is_changed_by_who_has_no_other_right(user: User) -> None:
    user.web.service.people.put("nora", Role.VIEWER, PASSWORD, "test")
    user.enter("nora")
    user.visit("/password")
    for width in (PHONE, 1200):
        user.browser.look(width=width, height=1600)
        assert user.browser.run("document.documentElement.scrollWidth <= innerWidth")
        user.keep(f"password-{width}")
    assert "Log in" in user.press("Change password", old=PASSWORD, new="9" * 12, again="9" * 12)
    assert "nora (viewer)" in user.enter("nora", "9" * 12)
    assert not user.browser.complaints()


def test_administrator_removes_a_host(user: User) -> None:
    user.web.service.enrolment.invite(Wanted("mistake"), "anna")
    user.enter("anna")
    user.visit("/hosts/mistake")
    user.unfold("Remove this host")
    assert "mistake" not in user.press("Remove", why="never existed")
    assert not user.browser.complaints()


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
            olga.browser.run(
                "document.querySelectorAll('form').forEach(f => {"
                " if (f.closest('details')) f.closest('details').open = true; })"
            )
            assert olga.browser.run("document.documentElement.scrollWidth <= innerWidth"), path
            assert olga.browser.run("innerWidth") == width, path
            olga.keep(f"{kind}-{path.strip('/').replace('/', '-') or 'fleet'}")
    olga.press("Log out")
    olga.keep("phone-login")
