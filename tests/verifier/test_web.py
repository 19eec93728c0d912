"""The web face: who may do what, agents, tokens, pages; a log full of markup shows as text."""

from __future__ import annotations

import html
import json
import re
from argparse import Namespace
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.verifier.conftest import PASSWORD, Web

from casemate.calls.messages import ActivateCredential, ActivationReply
from casemate.cli import agent
from casemate.formats import ear
from casemate.formats.ear import Tier
from casemate.policy.measure import CommandLine
from casemate.testing.minifleet import HonestHost, MiniFleet
from casemate.testing.smallhost import SmallHost, SmallImage, sign_reference
from casemate.testing.softkeys import SoftEk
from casemate.ui.verifier import render
from casemate.verifier import connections, store, views
from casemate.verifier.endpoints import ENDPOINTS
from casemate.verifier.enrol import Wanted

SCRIPT = "<script>alert(1)</script>"
EVIL_WORDS = f'noSecurity="{SCRIPT}" \x1b[31mred \u202ereversed <img/src=x/onerror=alert(2)>'


def enrolled(web: Web, fleet: Callable[[int], MiniFleet]) -> MiniFleet:
    made = fleet(1)
    web.service.book.add(sign_reference(SmallImage().reference()), "anna")
    web.service.enrolment.pull(Wanted("host-001", made.addresses["host-001"]), "anna")
    web.service.enrolment.approve("host-001", "anna")
    web.round("host-001")
    return made


def test_every_endpoint_but_login_and_keys_refuses_strangers(web: Web) -> None:
    open_ = {one.path for one in ENDPOINTS if one.role is None and not one.agent}
    assert open_ == {"/api/v1/login", "/api/v1/keys"}
    for one in ENDPOINTS:
        path = one.path.replace("{name}", "x").replace("{identifier}", "x")
        if one.path in open_:
            continue
        for headers in ({}, {"authorization": "Bearer guess"}):
            assert web.client.request(one.method, path, headers=headers).status_code == 401, path


@pytest.mark.parametrize("user", ["vera", "rita"])
def test_viewers_cannot_change_anything_but_their_own_password(web: Web, user: str) -> None:
    headers = web.login(user)
    for one in ENDPOINTS:
        path = one.path.replace("{name}", "x").replace("{identifier}", "x")
        if one.method != "GET" and one.role is not None:
            answer = web.client.request(one.method, path, headers=headers)
            own = path == "/api/v1/password"
            assert answer.status_code == (401 if one.agent else 400 if own else 403), path


def test_own_password_is_changed_over_the_api_by_who_knows_it(web: Web) -> None:
    url, new = "/api/v1/password", "another good password"
    headers = web.login("vera")
    for body, status in (
        ({"old": "guess", "new": new}, 401),
        ({"old": PASSWORD, "new": "short"}, 400),
        ({"old": PASSWORD, "new": PASSWORD}, 400),
        ({"old": PASSWORD, "new": new, "user": "anna"}, 400),
    ):
        assert web.client.post(url, json=body, headers=headers).status_code == status
    assert web.client.get("/api/v1/fleet", headers=headers).status_code == 200
    body = {"old": PASSWORD, "new": new}
    web.browse("vera")
    assert web.client.post(url, json=body).status_code == 401  # a cookie alone changes nothing
    assert web.client.post(url, json=body, headers=headers).json()["changed"] is True
    assert web.client.get("/api/v1/fleet", headers=headers).status_code == 401
    for password, status in ((PASSWORD, 401), (new, 200)):
        login = {"user": "vera", "password": password}
        assert web.client.post("/api/v1/login", json=login).status_code == status


def test_operator_cannot_make_users_or_remove_hosts(web: Web) -> None:
    headers = web.login("olga")
    body = {"role": "administrator", "password": PASSWORD}
    assert web.client.put("/api/v1/users/eve", json=body, headers=headers).status_code == 403
    assert web.client.delete("/api/v1/hosts/x", headers=headers).status_code == 403


def test_cookie_alone_changes_nothing(web: Web) -> None:
    web.browse()
    assert web.client.get("/api/v1/fleet").status_code == 200
    answer = web.client.post("/api/v1/hosts", json={"name": "x"})
    assert answer.status_code == 401


def test_form_of_another_site_is_refused(web: Web, fleet: Callable[[int], MiniFleet]) -> None:
    enrolled(web, fleet)
    web.browse()
    for form in ({}, {"csrf": "guess"}):
        answer = web.client.post("/hosts/host-001/attest", data=form, follow_redirects=False)
        assert answer.status_code == 403


def test_wrong_passwords_lock_the_account(web: Web) -> None:
    for _ in range(6):
        body = {"user": "vera", "password": "wrong"}
        assert web.client.post("/api/v1/login", json=body).status_code == 401
    body = {"user": "vera", "password": PASSWORD}
    assert web.client.post("/api/v1/login", json=body).status_code == 401


def test_big_and_strange_bodies_are_refused(web: Web) -> None:
    headers = web.login("anna")
    post = web.client.post
    assert post("/api/v1/login", content=b"x" * (65 << 10)).status_code == 413
    assert post("/api/v1/login", content=b"[" * 60_000).status_code == 400
    assert post("/api/v1/login", json={"user": 1, "password": ""}).status_code == 400
    assert post("/api/v1/hosts", json={"name": "a", "x": 1}, headers=headers).status_code == 400
    assert post("/api/v1/hosts", json={"name": "../a"}, headers=headers).status_code == 400
    for user in ("a\0b", "a\ud800"):
        body = json.dumps({"user": user, "password": user}).encode()
        assert post("/api/v1/login", content=body).status_code == 400
    long = {"name": "a", "cadence": 10**400}
    assert post("/api/v1/hosts", json=long, headers=headers).status_code == 400


def test_openapi_describes_every_endpoint(web: Web) -> None:
    document = web.client.get("/api/v1/openapi.json").json()
    known = {(path, method) for path, one in document["paths"].items() for method in one}
    assert known == {(one.path, one.method.lower()) for one in ENDPOINTS}
    names = [op["operationId"] for one in document["paths"].values() for op in one.values()]
    assert len(names) == len(set(names))


def test_token_of_a_trusted_host_and_of_a_failed_one(
    web: Web, fleet: Callable[[int], MiniFleet]
) -> None:
    made = enrolled(web, fleet)
    headers = web.login("rita")
    told = web.client.get("/api/v1/hosts/host-001/token?nonce=n1", headers=headers).json()
    assert told["allowed"] is True
    keys = web.client.get("/api/v1/keys").json()["keys"]
    public = {web.service.tokens.key_id: web.service.tokens.public_key}
    assert [key["kid"] for key in keys] == list(public)
    result = ear.verify(told["token"], public, datetime.now(UTC), nonce="n1")
    assert result.subject == "host-001"
    assert result.submodules["vibs"].status is Tier.AFFIRMING
    made.hosts["host-001"].reboot(SmallImage(contents={"qemu.v00": b"evil"}))
    web.round("host-001")
    made.hosts["host-001"].reboot(SmallImage())
    web.round("host-001")
    told = web.client.get("/api/v1/hosts/host-001/token", headers=headers).json()
    assert told["allowed"] is False
    result = ear.verify(told["token"], public, datetime.now(UTC))
    assert result.status is Tier.CONTRAINDICATED


def test_metrics_count_hosts(web: Web, fleet: Callable[[int], MiniFleet]) -> None:
    enrolled(web, fleet)
    text = web.client.get("/metrics", headers=web.login("vera")).text
    assert 'casemate_hosts{state="trusted"} 1' in text
    assert 'casemate_rounds_total{outcome="good"} 1' in text


def test_pages_have_no_script_and_say_what_is(web: Web, fleet: Callable[[int], MiniFleet]) -> None:
    enrolled(web, fleet)
    assert web.client.get("/", follow_redirects=False).headers["location"] == "/login"
    web.browse("vera")
    for path in ("/", "/hosts/host-001", "/references", "/alarms", "/audit", "/?state=trusted"):
        page = web.client.get(path)
        assert page.status_code == 200, path
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        for word in ("<script", " style=", "onclick", "javascript:"):
            assert word not in page.text, path
    assert "Attest now" not in web.client.get("/hosts/host-001").text
    assert web.client.get("/hosts/nobody").status_code == 404


def test_operator_clears_a_latch_in_the_browser(
    web: Web, fleet: Callable[[int], MiniFleet]
) -> None:
    made = enrolled(web, fleet)
    made.hosts["host-001"].reboot(SmallImage(contents={"qemu.v00": b"evil"}))
    web.round("host-001")
    csrf = web.browse()
    page = web.client.get("/hosts/host-001").text
    assert "Clear latch" in page
    assert "qemu.v00" in page
    assert "not as expected" in page
    post = web.client.post
    refused = post("/hosts/host-001/clear", data={"csrf": csrf, "why": ""})
    assert "say why" in refused.text
    answer = post("/hosts/host-001/clear", data={"csrf": csrf, "why": "new disk"})
    assert answer.status_code == 200
    assert "Clear latch" not in answer.text


def test_numbers_longer_than_any_that_counts_break_nothing(
    web: Web, fleet: Callable[[int], MiniFleet]
) -> None:
    enrolled(web, fleet)
    headers = web.login("olga")
    web.browse()
    for digits in (10, 30, 5000):
        number = "9" * digits
        assert web.client.get(f"/hosts/host-001?round={number}").status_code == 200
        path = f"/api/v1/hosts/host-001/evidence?round={number}"
        assert web.client.get(path, headers=headers).status_code == 200


def test_log_full_of_script_tags_shows_as_text(web: Web, fleet: Callable[[int], MiniFleet]) -> None:
    made = enrolled(web, fleet)
    host = made.hosts["host-001"]
    host.extend(host.measurer.measure(CommandLine(EVIL_WORDS)))
    web.round("host-001")
    web.browse()
    page = web.client.get("/hosts/host-001").text
    for raw in (SCRIPT, "\x1b", "\u202e", "<img/"):
        assert raw not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert r"\x1b[31mred \u202ereversed" in page


def test_log_of_one_host_is_compared_with_anothers(
    web: Web, fleet: Callable[[int], MiniFleet]
) -> None:
    made = fleet(2)
    web.service.book.add(sign_reference(SmallImage().reference()), "anna")
    for name, address in made.addresses.items():
        web.service.enrolment.pull(Wanted(name, address), "anna")
        web.service.enrolment.approve(name, "anna")
    for host in made.hosts.values():
        host.reboot(SmallImage(contents={"qemu.v00": b"evil"}))
    made.hosts["host-002"].reboot(SmallImage(contents={"nic.v00": b"evil"}))
    for name in made.addresses:
        web.round(name)
    headers = web.login("vera")
    url = "/api/v1/hosts/host-001/evidence?against=host-002"
    events = web.client.get(url, headers=headers).json()["events"]
    unlike = {one["text"] for one in events if one["verdict"] == "changed"}
    assert unlike == {"qemu.v00", "nic.v00", "imgdb.tgz"}
    web.browse("vera")
    page = web.client.get("/hosts/host-001?against=host-002").text
    assert "the last log of" in page
    assert web.client.get("/hosts/host-001?against=nobody").status_code == 404
    # Since then it has become like the first: the round that is asked for counts, not the last.
    before = web.client.get("/api/v1/hosts/host-002", headers=headers).json()["rounds"][0]["number"]
    made.hosts["host-002"].reboot(SmallImage(contents={"qemu.v00": b"evil"}))
    web.round("host-002")
    events = web.client.get(url, headers=headers).json()["events"]
    assert {one["verdict"] for one in events} <= {"expected", "information"}
    events = web.client.get(f"{url}&against-round={before}", headers=headers).json()["events"]
    assert {one["text"] for one in events if one["verdict"] == "changed"} == unlike
    page = web.client.get(f"/hosts/host-001?against=host-002&against-round={before}").text
    assert f"log of round {before} of" in page
    assert web.client.get(f"{url}&against-round=999999", headers=headers).status_code == 404


def test_many_events_are_shown_in_parts_and_all_can_be_reached(
    web: Web, fleet: Callable[[int], MiniFleet]
) -> None:
    made = enrolled(web, fleet)
    host = made.hosts["host-001"]
    for number in range(1_500):
        host.extend(host.measurer.measure(CommandLine(f"option{number}=1")))
    web.round("host-001")
    web.browse()
    page = web.client.get("/hosts/host-001")
    assert page.status_code == 200
    assert 500 < page.text.count("<tr") < 1500
    parts = re.findall(r'href="([^"]*pcr=(?:14|21)[^"]*)"', page.text)
    shown = set()
    for part in parts:
        text = web.client.get(html.unescape(part)).text
        shown |= set(re.findall(r'<td class="number">(\d+)</td>', text))
    assert len(shown) > 3_000
    assert web.client.get("/hosts/host-001?pcr=14&from=999999999").status_code == 200


def test_hosts_are_sorted_by_any_column_in_pages_and_the_worst_come_first(
    web: Web, fleet: Callable[[int], MiniFleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = enrolled(web, fleet)
    web.service.enrolment.invite(Wanted("waiting"), "anna")
    web.round("host-001")
    made.hosts["host-001"].reboot(SmallImage(contents={"nic.v00": b"evil"}))
    web.round("host-001")
    web.browse("vera")

    def names(query: str = "") -> list[str]:
        text = web.client.get(f"/?{query}").text
        return re.findall(r'<th scope="row"><a href="/hosts/([^"]+)"', text)

    everybody = names()
    assert everybody[0] == "host-001"
    assert names("sort=name") == sorted(everybody)
    assert names("sort=-name") == sorted(everybody, reverse=True)
    assert names("sort=nonsense") == everybody
    for column in ("state", "age", "verdict", "image", "policy", "mode"):
        assert sorted(names(f"sort=-{column}")) == sorted(everybody)
    monkeypatch.setattr("casemate.verifier.pages.HOSTS_SHOWN", 1)
    pages = [names(f"page={n + 1}") for n in range(len(everybody))]
    assert [one for page in pages for one in page] == everybody
    assert names("page=999") == everybody[-1:]
    assert names("page=0&q=host-001&sort=name") == ["host-001"]


class Pushing:
    """A verifier's endpoints for agents, over the test client."""

    def __init__(self, client: httpx.Client, secret: str) -> None:
        self._client = client
        self._headers = {"authorization": f"Bearer {secret}"}
        self.refusal: dict[str, Any] = {}

    def post(self, path: str, body: bytes = b"") -> dict[str, Any]:
        answer: httpx.Response = self._client.post(
            "/agent/v1" + path, content=body, headers=self._headers
        )
        value: dict[str, Any] = answer.json()
        if answer.status_code != 200:
            self.refusal = value["error"]
            raise PermissionError(self.refusal["code"])
        return value


def test_agent_enrols_pushes_and_is_judged(web: Web) -> None:
    web.service.book.add(sign_reference(SmallImage().reference()), "anna")
    body = {"name": "far-away", "push": True}
    told = web.client.post("/api/v1/hosts", json=body, headers=web.login("olga")).json()
    pushing = Pushing(web.client, told["token"])
    source = HonestHost(SmallHost())
    assert agent.Prover(source, pushing).round()["state"] == "pending"
    web.service.enrolment.approve("far-away", "anna")
    assert agent.Prover(source, pushing).round()["state"] == "trusted"
    source.host.reboot(SmallImage(contents={"nic.v00": b"evil"}))
    assert agent.Prover(source, pushing).round()["state"] == "failed-latched"
    with pytest.raises(PermissionError):
        agent.Prover(source, Pushing(web.client, "stolen")).round()


def test_agent_cannot_bring_another_tpm_or_replay(web: Web) -> None:
    web.service.book.add(sign_reference(SmallImage().reference()), "anna")
    _, secret = web.service.enrolment.invite(Wanted("far-away"), "anna")
    pushing = Pushing(web.client, secret)
    source = HonestHost(SmallHost())
    agent.Prover(source, pushing).round()
    web.service.enrolment.approve("far-away", "anna")
    sent: list[tuple[str, bytes]] = []
    post = pushing.post

    def remember(path: str, body: bytes = b"") -> dict[str, Any]:
        sent.append((path, body))
        return post(path, body)

    pushing.post = remember  # type: ignore[method-assign]  # a listener between agent and verifier
    agent.Prover(source, pushing).round()
    with pytest.raises(PermissionError, match="nonce-reused"):
        post(*sent[-1])
    source.host.ek = SoftEk()
    with pytest.raises(PermissionError, match="identity-conflict"):
        agent.Prover(source, pushing).round()


def test_agent_that_cannot_answer_the_challenge_is_not_enrolled(web: Web) -> None:
    _, secret = web.service.enrolment.invite(Wanted("far-away"), "anna")

    class Liar(HonestHost):
        def activate(self, request: ActivateCredential) -> ActivationReply:
            return ActivationReply(bytes(len(super().activate(request).secret)))

    with pytest.raises(PermissionError, match="activation"):
        agent.Prover(Liar(SmallHost()), Pushing(web.client, secret)).round()
    with web.service.database.transaction() as step:
        assert store.get_host(step, "far-away").ek == ""


def test_agent_options_have_a_secret(tmp_path: Path) -> None:
    place = tmp_path / "secret"
    place.write_text("abc\n")
    assert agent._secret(Namespace(secret_file=place).secret_file) == "abc"


def test_evidence_that_is_nonsense_is_a_bad_round_not_a_crash(web: Web) -> None:
    web.service.book.add(sign_reference(SmallImage().reference()), "anna")
    _, secret = web.service.enrolment.invite(Wanted("far-away"), "anna")
    pushing, source = Pushing(web.client, secret), HonestHost(SmallHost())
    agent.Prover(source, pushing).round()
    web.service.enrolment.approve("far-away", "anna")
    for body in (b"{}", b"\xff" * 100, json.dumps({"quotes": []}).encode()):
        nonce = pushing.post("/nonce")["nonce"]
        assert pushing.post(f"/evidence?nonce={nonce}", body)["state"] == "failed-latched"
    web.browse("vera")
    assert web.client.get("/hosts/far-away").status_code == 200


def test_a_page_begins_before_its_log_is_read(web: Web, fleet: Callable[[int], MiniFleet]) -> None:
    enrolled(web, fleet)
    with web.service.database.transaction() as step:
        host = views.host(step, "host-001")
        found, log = views.evidence_in_parts(step, web.service.book, "host-001")
        assert {**found, **log()} == views.evidence(step, web.service.book, "host-001")
    reads: list[int] = []

    def read() -> views.View:
        reads.append(1)
        return log()

    values = {
        "page": "host", "host": host, "round": found, "log": read, "pcr": None, "start": 0,
        "policies": [], "who": web.service.people.check(web.handle()),
    }  # fmt: skip
    pieces = render.stream("host", values)
    first = next(pieces)
    assert "host-001" in first
    assert not reads
    assert first + "".join(pieces) == render.render("host", values)
    assert len(reads) == 2


def test_idle_connections_end_sooner_where_there_are_many() -> None:
    protocol = connections.KeepAlive()
    protocol.connections = set()
    protocol.timeout_keep_alive = 5
    assert protocol.timeout_keep_alive == connections.KEEP_ALIVE_SECONDS
    protocol.connections = set(range(connections.CONNECTION_LIMIT // 2 + 1))
    assert protocol.timeout_keep_alive == connections.BUSY_KEEP_ALIVE_SECONDS


@pytest.mark.parametrize("sent", [b"", b"GET /login HTTP/1.1\r\nhost: a\r\nx"])
def test_connection_that_never_sends_a_whole_head_is_ended(
    web: Web, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections.Punctual, "limit", 0.2)
    with web.connection() as stranger:
        stranger.sendall(sent)
        assert stranger.recv(1) == b""


def test_second_request_that_is_never_finished_ends_its_connection(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web.connection() as stranger:
        stranger.sendall(b"GET /assets/nothing HTTP/1.1\r\nhost: a\r\n\r\n")
        answer = b""
        while not answer.endswith(b"There is no such file."):
            answer += stranger.recv(4096)
        monkeypatch.setattr(connections.Punctual, "limit", 0.2)
        stranger.sendall(b"GET /login")
        assert stranger.recv(1) == b""
