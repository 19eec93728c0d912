"""Single sign-on against an OpenID provider of our own, over TLS: in with a role, or not at all."""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.verifier.conftest import Web

from casemate.errors import ArgumentError
from casemate.kernel.certificate import ensure_certificate
from casemate.verifier.oidc import SingleSignOn, provider_from
from casemate.verifier.people import Role
from casemate.verifier.web import COOKIE

CLIENT, SECRET = "casemate", "client secret"


class Issuer:
    """An OpenID provider; what it says can be bent before it says it."""

    def __init__(self, place: Path) -> None:
        self.key, self.stranger = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        self.codes: dict[str, dict[str, str]] = {}
        self.claims: dict[str, Any] = {}
        self.algorithm = "ES256"
        self.sign_by = self.key
        self.about: dict[str, Any] = {}
        self.asked: list[str] = []
        tls = ensure_certificate(place / "issuer", "localhost", 0, datetime.now(UTC))
        self.ca = tls / "rui.crt"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "rui.crt", tls / "rui.key")
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._say(*issuer.answer(self.path, {}, ""))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                form = {key: values[0] for key, values in parse_qs(body).items()}
                self._say(*issuer.answer(self.path, form, self.headers.get("authorization", "")))

            def _say(self, status: int, value: object) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the library
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"https://localhost:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str, form: dict[str, str], authorization: str) -> tuple[int, object]:
        self.asked.append(path)
        if path == "/.well-known/openid-configuration":
            return 200, {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize?tenant=1",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/keys",
                **self.about,
            }
        if path == "/keys":
            public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
            return 200, {"keys": [{**public, "kid": "1", "use": "sig"}]}
        asked = self.codes.pop(form.get("code", ""), None)
        pair = base64.b64decode(authorization.removeprefix("Basic ")).decode()
        challenge = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        proof = base64.urlsafe_b64encode(challenge).rstrip(b"=").decode()
        if asked is None or pair != "casemate:client%20secret" or proof != asked["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": CLIENT,
            "sub": "u-17",
            "exp": now + 300,
            "iat": now,
            "nonce": asked["nonce"],
            "groups": ["staff", "ops"],
        }
        claims = {k: v for k, v in (claims | self.claims).items() if v is not None}
        key: Any = self.sign_by if self.algorithm == "ES256" else SECRET * 4
        if self.algorithm == "none":
            key = None
        return 200, {"id_token": jwt.encode(claims, key, self.algorithm, headers={"kid": "1"})}

    def approve(self, location: str) -> dict[str, str]:
        """Do what the provider does once the person has logged in; return the answer's query."""
        asked = {key: values[0] for key, values in parse_qs(urlsplit(location).query).items()}
        assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
        assert asked["redirect_uri"] == "https://verifier:8443/login/oidc/callback"
        code = f"code-{len(self.asked)}"
        self.codes[code] = asked
        return {"code": code, "state": asked["state"], "iss": self.url}


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    made = Issuer(tmp_path)
    yield made
    made.close()


@pytest.fixture
def sso(web: Web, issuer: Issuer) -> Web:
    provider = provider_from(
        {
            "issuer": issuer.url,
            "client": CLIENT,
            "secret": SECRET,
            "url": "https://verifier:8443",
            "roles": {"ops": "operator", "staff": "viewer", "boss": "administrator"},
            "ca": str(issuer.ca),
        }
    )
    assert provider is not None
    assert SECRET not in repr(provider)
    web.service.sign_on = SingleSignOn(provider, web.service.database, web.service.people)
    return web


def leave(web: Web) -> str:
    answer = web.client.get("/login/oidc", follow_redirects=False)
    assert answer.status_code == 303
    return answer.headers["location"]


def arrive(web: Web, query: dict[str, str]) -> httpx.Response:
    return web.client.get("/login/oidc/callback", params=query, follow_redirects=False)


def test_a_person_comes_in_with_the_highest_role_of_the_claim(sso: Web, issuer: Issuer) -> None:
    assert "single sign-on" in sso.client.get("/login").text
    answer = arrive(sso, issuer.approve(leave(sso)))
    assert answer.status_code == 200
    assert "SameSite=strict" in answer.headers["set-cookie"]
    who = sso.service.people.check(sso.client.cookies[COOKIE])
    assert (who.name, who.role) == ("oidc:u-17", Role.OPERATOR)
    assert "oidc:u-17 (operator)" in sso.client.get("/").text
    issuer.claims = {"groups": "staff"}
    arrive(sso, issuer.approve(leave(sso)))
    assert sso.service.people.check(sso.client.cookies[COOKIE]).role is Role.VIEWER
    login = sso.client.post("/api/v1/login", json={"user": "oidc:u-17", "password": ""})
    assert login.status_code == 401


BENT: tuple[dict[str, Any], ...] = (
    {"claims": {"groups": ["strangers"]}},
    {"claims": {"groups": None}},
    {"claims": {"groups": {"ops": 1}}},
    {"claims": {"aud": "another"}},
    {"claims": {"aud": [CLIENT, "another"]}},
    {"claims": {"azp": "another"}},
    {"claims": {"iss": "https://evil.example"}},
    {"claims": {"exp": 1}},
    {"claims": {"exp": None}},
    {"claims": {"iat": 1 << 40}},
    {"claims": {"nonce": "of another request"}},
    {"claims": {"nonce": None}},
    {"claims": {"sub": ""}},
    {"claims": {"sub": "a\x1b[2J"}},
    {"algorithm": "none"},
    {"algorithm": "HS256"},
    {"forged": True},
)


def test_a_token_that_is_not_as_it_should_be_lets_nobody_in(sso: Web, issuer: Issuer) -> None:
    for bend in BENT:
        issuer.claims = bend.get("claims", {})
        issuer.algorithm = bend.get("algorithm", "ES256")
        issuer.sign_by = issuer.stranger if "forged" in bend else issuer.key
        answer = arrive(sso, issuer.approve(leave(sso)))
        assert answer.status_code == 401, bend
        assert COOKIE not in sso.client.cookies
        assert "did not succeed" in answer.text
    assert [one.name for one in sso.service.people.all() if one.name.startswith("oidc")] == []


def test_a_state_is_good_once_in_time_and_for_the_browser_that_began(
    sso: Web, issuer: Issuer
) -> None:
    query = issuer.approve(leave(sso))
    for wrong in ({**query, "state": "guess"}, {"state": query["state"] + "x"}, {}):
        assert arrive(sso, wrong).status_code == 401
    assert arrive(sso, query).status_code == 200
    assert arrive(sso, query).status_code == 401
    query = issuer.approve(leave(sso))
    mine = dict(sso.client.cookies)
    sso.client.cookies.clear()
    assert arrive(sso, query).status_code == 401
    sso.client.cookies.update(mine)
    assert arrive(sso, query).status_code == 401  # spent by the attempt before
    query = issuer.approve(leave(sso))
    with sso.service.database.transaction() as step:
        step.run("UPDATE signin SET started=started-601")
    assert arrive(sso, query).status_code == 401
    query = issuer.approve(leave(sso))
    assert arrive(sso, {**query, "iss": "https://evil.example"}).status_code == 401
    query = issuer.approve(leave(sso))
    answer = arrive(sso, {"state": query["state"], "error": "<script>"})
    assert answer.status_code == 401
    assert "<script" not in answer.text


def test_a_flood_of_logins_that_never_end_keeps_nobody_out(
    sso: Web, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casemate.verifier.oidc.OUTSTANDING", 3)
    sign_on = sso.service.sign_on
    assert sign_on is not None
    for _ in range(5):
        sign_on.begin()
    query = issuer.approve(leave(sso))
    for _ in range(2):
        sign_on.begin()
    with sso.service.database.transaction() as step:
        assert step.one("SELECT count(*) FROM signin") == (3,)
    assert arrive(sso, query).status_code == 200


@pytest.mark.parametrize(
    "about",
    [{"issuer": "https://evil.example"}, {"token_endpoint": "http://localhost/"}, {"jwks_uri": 1}],
    ids=str,
)
def test_a_provider_that_is_not_what_it_should_be_is_not_used(
    sso: Web, issuer: Issuer, about: dict[str, Any]
) -> None:
    issuer.about = about
    assert sso.client.get("/login/oidc", follow_redirects=False).status_code == 502


def test_without_a_provider_there_is_no_way_in(web: Web) -> None:
    assert "single sign-on" not in web.client.get("/login").text
    assert web.client.get("/login/oidc", follow_redirects=False).status_code == 404
    assert arrive(web, {"code": "x", "state": "y"}).status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "http://plain.example"},
        {"url": "verifier"},
        {"roles": {}},
        {"roles": {"x": "root"}},
        {"client": ""},
    ],
    ids=str,
)
def test_settings_that_would_let_anybody_in_are_refused(change: dict[str, Any]) -> None:
    value: dict[str, Any] = {
        "issuer": "https://id.example",
        "client": "c",
        "url": "https://verifier:8443",
        "roles": {"x": "viewer"},
    }
    assert provider_from(value) is not None
    with pytest.raises(ArgumentError):
        provider_from(value | change)
