"""The forms: who may send one, what it does, and what is said where it is refused."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from starlette.responses import Response
from tests.verifier.conftest import PASSWORD, Web

from casemate.errors import NotAuthenticatedError
from casemate.formats.corim import (
    CONTENT_TYPE,
    Comid,
    Corim,
    Environment,
    Measurement,
    ReferenceTriple,
    write_corim,
)
from casemate.formats.cose import sign1
from casemate.policy.exchange import corim_from_manifest
from casemate.policy.signedtext import join_signed
from casemate.testing.minifleet import MiniFleet
from casemate.testing.pki import shared_pki
from casemate.testing.rims import write_rim
from casemate.testing.smallhost import SmallImage, sign_reference
from casemate.verifier import forms, rulestore, store
from casemate.verifier.enrol import Wanted
from casemate.verifier.forms import Forms
from casemate.verifier.people import Role
from casemate.verifier.web import COOKIE

REFERENCE = sign_reference(SmallImage().reference())
NEXT = sign_reference(SmallImage(contents={"nic.v00": b"the next driver"}).reference())
POLICY = b'policy "hosts" version 1\npcr 12-13 events\npcr 7 per-host\n'
SIGNED = join_signed(POLICY, shared_pki().sign(POLICY, "certified"))


def send(
    web: Web, path: str, csrf: str, files: dict[str, bytes] | None = None, **fields: str
) -> httpx.Response:
    data = {"csrf": csrf, **fields}
    parts = {name: (f"{name}.bin", one) for name, one in (files or {}).items()}
    return web.client.post(path, data=data, files=parts or None, follow_redirects=False)


def signed_corim(payload: bytes) -> bytes:
    chain = shared_pki().signers["certified"]
    der = tuple(
        one.public_bytes(serialization.Encoding.DER)
        for one in (chain.certificate, shared_pki().issuers["certified"].certificate)
    )
    return sign1(payload, chain.key, content_type=CONTENT_TYPE, chain=der)


def _speaks_of(pcr: int, value: bytes) -> bytes:
    measured = Measurement("pcrs", registers={pcr: (("sha256", value),)})
    triple = ReferenceTriple(Environment(vendor="Casemate"), (measured,))
    return signed_corim(write_corim(Corim("small", (Comid("small", 1, (triple,)),))))


def actions(web: Web) -> list[forms.Action]:
    nothing = Response()
    made = Forms(web.service, lambda *_: nothing, lambda *_: nothing)
    return list(made._actions())


def test_every_form_refuses_strangers_other_sites_and_lower_roles(web: Web) -> None:
    paths = [(one.path.replace("{name}", "x"), one.role) for one in actions(web)]
    for path, _ in paths:
        answer = send(web, path, "guessed")
        assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path
    with web.service.database.transaction() as step:
        before = step.one("SELECT MAX(number) FROM audit")
    secrets = {user: web.browse(user) for user in ("anna", "vera", "olga", "rita")}
    for user, role in (
        ("vera", Role.VIEWER),
        ("rita", Role.RELYING_PARTY),
        ("olga", Role.OPERATOR),
    ):
        csrf = web.browse(user)
        for path, needed in paths:
            if list(Role).index(needed) > list(Role).index(role):
                answer = send(web, path, csrf)
                assert answer.status_code == 403, (user, path)
                assert f"this needs {needed}" in answer.text, (user, path)
    web.browse("anna")
    for path, _ in paths:
        for wrong in ("", "guessed", secrets["olga"]):
            answer = send(web, path, wrong)
            assert answer.status_code == 403, path
            assert "not of this session" in answer.text, path
    with web.service.database.transaction() as step:
        logins = step.one("SELECT COUNT(*) FROM audit WHERE action='login'")
        after = step.one("SELECT MAX(number) FROM audit")
    assert None not in (logins, before, after)
    assert after[0] == before[0] + logins[0]  # nothing else was done


@pytest.mark.parametrize(
    ("user", "path", "status"), [("vera", "/references", b"403"), ("olga", "/hosts", b"413")]
)
def test_nobody_sends_a_file_before_it_is_known_that_he_may(
    web: Web, user: str, path: str, status: bytes
) -> None:
    web.browse(user)
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncookie: {COOKIE}={web.client.cookies[COOKIE]}\r\n"
    with web.connection() as asker:  # the body is announced, and never sent
        asker.sendall(f"{head}content-length: {1 << 20}\r\n\r\n".encode())
        answer = b""
        while part := asker.recv(4096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"\r\nconnection: close\r\n" in answer


def test_host_is_enrolled_from_its_form_and_one_that_pushes_gets_a_secret_once(
    web: Web, fleet: Callable[[int], MiniFleet]
) -> None:
    ((_, address),) = fleet(1).addresses.items()
    csrf = web.browse()
    answer = send(web, "/hosts", csrf, name="esx-1", address=address, cadence="30", mode="pull")
    assert answer.headers["location"] == "/hosts/esx-1"
    with web.service.database.transaction() as step:
        found = store.get_host(step, "esx-1")
    assert (found.state, found.cadence, found.address) == ("pending", 30.0, address)
    answer = send(web, "/hosts", csrf, name="far", mode="push", profile="small")
    assert answer.headers["cache-control"] == "no-store"
    secret = re.search(r'class="secret">([\w-]+)<', answer.text)
    assert secret is not None
    headers = {"authorization": f"Bearer {secret[1]}"}
    assert web.client.post("/agent/v1/nonce", headers=headers).json()["state"] == "pending"
    assert secret[1] not in web.client.get("/hosts/far").text
    for wrong in (
        {"name": "esx-1", "address": address},
        {"name": "../x", "mode": "push"},
        {"name": "y", "mode": "push", "cadence": "often"},
        {"name": "y", "mode": "push", "cadence": "nan"},
    ):
        assert send(web, "/hosts", csrf, **wrong).status_code == 400, wrong
    with web.service.database.transaction() as step:
        assert sorted(host.name for host in store.all_hosts(step)) == ["esx-1", "far"]
    csrf = web.browse("anna")
    assert send(web, "/hosts/far/remove", csrf, why="gone").headers["location"] == "/"
    assert web.client.get("/hosts/far").status_code == 404


def test_reference_is_tried_and_put_in_force_out_of_the_page_that_tried_it(
    web: Web, fleet: Callable[[int], MiniFleet]
) -> None:
    made = fleet(2)
    web.service.book.add(REFERENCE, "anna")
    for name, address in made.addresses.items():
        web.service.enrolment.pull(Wanted(name, address), "anna")
    web.service.enrolment.approve("host-001", "anna")
    web.round("host-001")
    csrf = web.browse()
    tried = send(web, "/references/rehearsal", csrf, {"file": NEXT}, overlap="2")
    assert "1 fail" in tried.text
    assert "1 unknown" in tried.text
    first, second = tried.text.index("host-001"), tried.text.index("host-002")
    assert first < second  # the worst comes first
    assert "component-changed" in tried.text or "nic.v00" in tried.text
    with web.service.database.transaction() as step:
        assert len(rulestore.references(step)) == 1
    held = re.search(r'name="held" value="([^"]*)"', tried.text)
    assert held is not None
    assert base64.b64decode(held[1]) == NEXT
    kept = {"held": held[1], "overlap": "2"}
    files = {name: (None, value) for name, value in {**kept, "csrf": csrf}.items()}
    assert web.client.post("/references", files=files, follow_redirects=False).status_code == 303
    with web.service.database.transaction() as step:
        new, old = rulestore.references(step)
        assert new.body == NEXT
        assert old.until is not None
        assert 0 < old.until - step.now() <= 7200
    answer = send(web, f"/references/{new.identifier}/withdraw", csrf, why="recalled")
    assert answer.status_code == 303
    with web.service.database.transaction() as step:
        assert all(one.until is not None for one in rulestore.references(step))
    for data, code in ((b"", 400), (b"{}", 400), (NEXT.replace(b"nic.v00", b"nic.v01"), 422)):
        answer = send(web, "/references", csrf, {"file": data})
        assert answer.status_code == code, data[:9]
    answer = web.client.post("/references", files={"csrf": (None, csrf), "held": (None, "%%%")})
    assert "came back damaged" in answer.text


def test_rim_with_its_log_is_a_reference_of_the_verifier(
    web: Web, fleet: Callable[[int], MiniFleet]
) -> None:
    made = fleet(2)
    log = made.hosts["host-001"].log_bytes()
    rim = write_rim(log)
    files = {"rim": rim, "log": log, "signature": shared_pki().sign(rim, "certified")}
    csrf = web.browse()
    fields = {"name": "small", "log_name": "Example.rimel"}
    assert (
        "No host would be judged"
        in send(web, "/references/rim-rehearsal", csrf, files, **fields).text
    )
    assert send(web, "/references/rim", csrf, files, **fields).status_code == 303
    assert "small 01" in web.client.get("/references").text
    made.hosts["host-002"].reboot(SmallImage(contents={"nic.v00": b"evil"}))
    for name, address in made.addresses.items():
        web.service.enrolment.pull(Wanted(name, address), "anna")
        web.service.enrolment.approve(name, "anna")
        web.round(name)
    with web.service.database.transaction() as step:
        states = [store.get_host(step, name).state for name in made.addresses]
    assert states == ["trusted", "failed-latched"]
    for wrong, code in (
        ({**files, "log": log + b"\0"}, 422),
        ({**files, "signature": b""}, 422),
        ({**files, "signer": b"no certificate"}, 400),
        ({"rim": rim}, 400),
    ):
        assert send(web, "/references/rim", csrf, wrong, **fields).status_code == code
    assert send(web, "/references/rim", csrf, files, name="small").status_code == 422


def test_policy_corim_and_runtime_policy_are_added_from_their_forms(web: Web) -> None:
    csrf = web.browse()
    tried = send(web, "/policies/rehearsal", csrf, {"file": SIGNED}, hosts="all")
    assert "hosts 1" in tried.text
    assert "No host would be judged" in tried.text
    assert 'id="more"' not in web.client.get("/policies").text  # there is no policy to add to
    assert send(web, "/policies", csrf, {"file": SIGNED}).status_code == 303
    assert 'id="more"' in web.client.get("/policies").text
    unsigned = write_corim(corim_from_manifest(SmallImage().reference()))
    more = {"policy": "hosts", "kind": "corim"}
    assert send(web, "/policies/more", csrf, {"file": unsigned}, **more).status_code == 422
    assert (
        send(web, "/policies/more", csrf, {"file": b"{}"}, policy="hosts", kind="x").status_code
        == 400
    )
    tried = send(web, "/policies/more-rehearsal", csrf, {"file": signed_corim(unsigned)}, **more)
    assert "The CoRIM <strong>for hosts</strong>" in tried.text
    assert 'action="/policies/more"' in tried.text
    for wrong, code in ((unsigned, 422), (b"", 400)):
        answer = send(web, "/policies/more-rehearsal", csrf, {"file": wrong}, **more)
        assert answer.status_code == code
    answer = send(web, "/policies/more-rehearsal", csrf, {"file": b"x"}, policy="x", kind="corim")
    assert answer.status_code == 404
    runtime = {"policy": "hosts", "kind": "runtime"}
    assert send(web, "/policies/more", csrf, {"file": b"{}\n"}, **runtime).status_code == 422
    assert (
        send(web, "/policies/more", csrf, {"file": signed_corim(unsigned)}, **more).status_code
        == 303
    )
    assert "corim" in web.client.get("/policies").text


def test_corim_is_tried_on_the_hosts_of_its_policy_and_is_not_in_force(
    web: Web, fleet: Callable[[int], MiniFleet]
) -> None:
    made = fleet(1)
    ((name, address),) = made.addresses.items()
    web.service.book.add(REFERENCE, "anna")
    web.service.rules.add(SIGNED, "anna")
    web.service.enrolment.pull(Wanted(name, address), "anna")
    web.service.enrolment.approve(name, "anna")
    web.service.rules.assign(name, "hosts", "anna")
    web.round(name)
    value = made.hosts[name].tpm.values()["sha256"][7]
    good, evil = (_speaks_of(7, one) for one in (value, bytes(range(32))))
    wide = signed_corim(write_corim(corim_from_manifest(SmallImage().reference())))
    headers, told = web.login("olga"), []
    for data in (good, evil, wide):
        url = "/api/v1/policies/hosts/rehearsal?kind=corim"
        (host,) = web.client.post(url, content=data, headers=headers).json()["hosts"]
        told.append((host["would"], host["sentence"]))
    assert [would for would, _ in told] == ["pass", "fail", "unknown"]
    assert "PCR 7" in told[1][1]
    assert "lacks PCR" in told[2][1]  # nobody has asked for it yet
    answer = web.client.post("/api/v1/policies/hosts/rehearsal", content=good, headers=headers)
    assert answer.status_code == 400
    with web.service.database.transaction() as step:
        assert [one.kind for one in rulestore.policies(step)] == ["policy"]


def test_own_password_is_changed_on_its_page_and_ends_all_sessions(web: Web) -> None:
    csrf, new = web.browse("vera"), "another good password"
    other = web.service.people.login("vera", PASSWORD)
    assert "Present password" in web.client.get("/password").text
    for fields, status in (
        ({"old": PASSWORD, "new": new, "again": "a third good one"}, 400),
        ({"old": "guess", "new": new, "again": new}, 401),
        ({"old": PASSWORD, "new": "short", "again": "short"}, 400),
    ):
        assert send(web, "/password", csrf, **fields).status_code == status, fields
    assert web.service.people.check(other).name == "vera"
    answer = send(web, "/password", csrf, old=PASSWORD, new=new, again=new)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    with pytest.raises(NotAuthenticatedError):
        web.service.people.check(other)
    assert web.client.get("/password", follow_redirects=False).headers["location"] == "/login"
    web.service.people.login("vera", new)
    with web.service.database.transaction() as step:
        row = step.one("SELECT who, thing FROM audit WHERE action='change-password'")
    assert row == ("vera", "vera")


def test_users_are_made_changed_and_removed_by_administrators(web: Web) -> None:
    csrf = web.browse("anna")
    new = {"name": "nils", "role": "viewer", "password": "another good password"}
    assert send(web, "/users", csrf, **new).status_code == 303
    assert "nils" in web.client.get("/users").text
    people = web.service.people
    session = people.login("nils", new["password"])
    assert people.check(session).role is Role.VIEWER
    for wrong in (
        new,
        {**new, "name": "Nils"},
        {**new, "name": "nora", "password": "short"},
        {**new, "name": "nora", "role": "king"},
    ):
        assert send(web, "/users", csrf, **wrong).status_code == 400, wrong
    assert send(web, "/users/nils/role", csrf, role="operator").status_code == 303
    with pytest.raises(NotAuthenticatedError):
        people.check(session)
    session = people.login("nils", new["password"])
    assert people.check(session).role is Role.OPERATOR
    assert send(web, "/users/nils/password", csrf, password="a third good one").status_code == 303
    with pytest.raises(NotAuthenticatedError):
        people.check(session)
    people.login("nils", "a third good one")
    assert send(web, "/users/nils/remove", csrf).status_code == 303
    assert "nils" not in web.client.get("/users").text
    assert send(web, "/users/nils/role", csrf, role="viewer").status_code == 400
    # The last administrator stays.
    for path, fields in (("remove", {}), ("role", {"role": "viewer"})):
        answer = send(web, f"/users/anna/{path}", csrf, **fields)
        assert answer.status_code == 409, path
        assert "only administrator" in answer.text
    headers = web.login("anna")
    body = {"role": "viewer", "password": PASSWORD}
    assert web.client.put("/api/v1/users/anna", json=body, headers=headers).status_code == 409
    assert (
        web.client.put("/api/v1/users/vera", json={"role": "operator"}, headers=headers).status_code
        == 200
    )
    web.browse("vera")
    assert web.client.get("/users").status_code == 403
