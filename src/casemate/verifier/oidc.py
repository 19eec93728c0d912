"""Single sign-on by OpenID Connect: the code flow with PKCE, and a role from a claim.

1. ``begin``: state, nonce and code verifier are kept in the store; the browser gets a cookie.
2. The provider logs the person in and sends the browser back with a code and the state.
3. ``finish``: the state is spent, once and in time, by the browser that began; the code is turned
   into an ID token, whose signature, issuer, audience, times and nonce are checked; a claim gives
   the role. Whoever has no role here is refused.

OpenID Connect Core 1.0, Discovery 1.0; RFC 7636; RFC 9700. Whatever is not as it should be ends in
a refusal; the reason stands in the log, not in the page.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import logging
import re
import secrets
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import jwt

from casemate.errors import ArgumentError, HostError, LoginError
from casemate.verifier.database import Database
from casemate.verifier.people import People, Role

_LOG = logging.getLogger("verifier.oidc")

ALGORITHMS: Final = ("ES256", "ES384", "PS256", "RS256")
"""Signatures of ID tokens; never none, never a shared secret."""
LIFETIME: Final = 600.0
"""Seconds from leaving for the provider until the return."""
OUTSTANDING: Final = 10_000
"""Log-ins begun and not ended, some MiB. Anybody can begin one: beyond them the oldest goes, so
that a flood must last, and begin all of them anew within the time that a person takes."""
LEEWAY: Final = 60.0
"""Seconds that the provider's clock may differ."""
ANSWER_LIMIT: Final = 1 << 20
TIMEOUT: Final = 10.0
SUBJECT_LIMIT: Final = 255
"""ASCII characters of a subject (OpenID Connect Core, section 2)."""
KEYS_AGE: Final = 3600.0
"""Seconds for which the provider's description and keys are kept."""
KEYS_PAUSE: Final = 30.0
"""Seconds before an unknown key makes us ask for the keys again."""
_REFUSED: Final = "Single sign-on did not succeed."


@dataclass(frozen=True, slots=True)
class Provider:
    """An OpenID provider and what it is to us.

    Attributes:
        issuer: its URL, exactly as tokens name it.
        client, secret: as it knows us; the secret may be empty (PKCE protects the code).
        url: of this verifier, as browsers see it: ``https://verifier:8443``.
        roles: value of ``claim`` → role; of several the highest counts.
        claim: the claim of the ID token with roles or groups, dots lead into objects.
        ca: certificate file that vouches for the provider; None: the system's anchors.
    """

    issuer: str
    client: str
    url: str
    roles: Mapping[str, Role]
    secret: str = field(default="", repr=False)
    claim: str = "groups"
    ca: Path | None = None

    @property
    def callback(self) -> str:
        """Where the provider sends browsers back to."""
        return f"{self.url.rstrip('/')}/login/oidc/callback"


@dataclass(frozen=True, slots=True)
class Leaving:
    """Where to send the browser, and the secret that its cookie keeps."""

    location: str
    cookie: str


def provider_from(value: Mapping[str, Any]) -> Provider | None:
    """Return the provider of a verifier's settings, None where there is none.

    Raises:
        ArgumentError: something is missing, not HTTPS, or no role.
    """
    if not value.get("issuer"):
        return None
    for name in ("issuer", "url"):
        parts = urlsplit(str(value.get(name, "")))
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment:
            raise ArgumentError(f"the OIDC {name} is https://HOST...", argument=f"oidc-{name}")
    if not value.get("client") or not value.get("roles"):
        raise ArgumentError(
            "OIDC needs a client id, and at least one role such as admins=administrator",
            argument="oidc-client",
        )
    try:
        roles = {str(key): Role(role) for key, role in value["roles"].items()}
    except ValueError:
        raise ArgumentError(f"roles are: {', '.join(Role)}", argument="oidc-roles") from None
    return Provider(
        value["issuer"],
        value["client"],
        value["url"],
        roles,
        value.get("secret", ""),
        value.get("claim") or "groups",
        Path(value["ca"]) if value.get("ca") else None,
    )


class SingleSignOn:
    """Logs people in by one provider; safe to use from several threads."""

    def __init__(self, provider: Provider, database: Database, people: People) -> None:
        self._provider = provider
        self._database = database
        self._people = people
        self._turn = threading.Lock()
        self._known: dict[str, Any] = {}
        self._keys: dict[str, dict[str, Any]] = {}
        self._read = -KEYS_AGE
        self._tls = ssl.create_default_context(cafile=str(provider.ca) if provider.ca else None)

    def begin(self) -> Leaving:
        """Return where to send a browser that wants to log in.

        Raises:
            HostError: the provider does not answer, or not as it should.
        """
        about = self._about()
        state, nonce = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        verifier, cookie = secrets.token_urlsafe(48), secrets.token_urlsafe(32)
        with self._database.transaction() as step:
            now = step.now()
            step.run("DELETE FROM signin WHERE started<?", now - LIFETIME)
            step.run(
                "DELETE FROM signin WHERE state IN"
                " (SELECT state FROM signin ORDER BY started DESC LIMIT ? OFFSET ?)",
                OUTSTANDING,
                OUTSTANDING - 1,
            )
            step.run(
                "INSERT INTO signin VALUES (?,?,?,?,?)",
                _digest(state),
                _digest(cookie),
                nonce,
                verifier,
                now,
            )
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
        asked = {
            "response_type": "code",
            "client_id": self._provider.client,
            "redirect_uri": self._provider.callback,
            "scope": "openid profile",
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge.rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        place = about["authorization_endpoint"]
        mark = "&" if urlsplit(place).query else "?"
        return Leaving(f"{place}{mark}{urlencode(asked)}", cookie)

    def finish(self, query: Mapping[str, str], cookie: str) -> str:
        """Return the handle of a session for who comes back. Raises LoginError, HostError."""
        with self._database.transaction() as step:
            row = step.one(
                "DELETE FROM signin WHERE state=? RETURNING cookie, nonce, verifier, started",
                _digest(query.get("state", "")),
            )
            now = step.now()
        if row is None or now - row[3] > LIFETIME:
            raise self._refusal("the state is none of ours, spent, or too old")
        if not hmac.compare_digest(str(row[0]), _digest(cookie)):
            raise self._refusal("another browser began this")
        if query.get("iss", self._provider.issuer) != self._provider.issuer:
            raise self._refusal("the answer is of another issuer")
        if not query.get("code"):
            raise self._refusal(f"the provider said {query.get('error', 'nothing')!r}")
        claims = self._claims(query["code"], str(row[2]))
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), str(row[1]).encode()):
            raise self._refusal("the token answers another request")
        role = self._role(claims)
        if role is None:
            raise self._refusal(f"{claims['sub']!r} has no role here")
        return self._people.admit(f"oidc:{claims['sub']}", role)

    def _claims(self, code: str, verifier: str) -> Mapping[str, Any]:
        provider, about = self._provider, self._about()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": provider.callback,
            "client_id": provider.client,
            "code_verifier": verifier,
        }
        headers = {"content-type": "application/x-www-form-urlencoded"}
        if provider.secret:
            pair = f"{quote(provider.client, safe='')}:{quote(provider.secret, safe='')}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        answer = self._fetch(about["token_endpoint"], urlencode(form).encode(), headers)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise self._refusal("the provider gave no ID token")
        try:
            return self._checked(token)
        except (jwt.InvalidTokenError, jwt.PyJWKError, KeyError, TypeError, ValueError) as error:
            raise self._refusal(f"ID token: {type(error).__name__}: {error}") from error

    def _checked(self, token: str) -> Mapping[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        if algorithm not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError(str(algorithm))
        key = jwt.PyJWK.from_dict(self._key(header.get("kid", "")), algorithm)
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._provider.client,
            issuer=self._provider.issuer,
            leeway=LEEWAY,
            options={"require": ["exp", "iat", "iss", "aud", "sub", "nonce"]},
        )
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if (several or "azp" in claims) and claims.get("azp") != self._provider.client:
            raise jwt.InvalidAudienceError("azp")
        subject: str = claims["sub"]
        if not 1 <= len(subject) <= SUBJECT_LIMIT or not re.fullmatch(r"[!-~]+", subject):
            raise jwt.InvalidTokenError("sub")
        return claims

    def _role(self, claims: Mapping[str, Any]) -> Role | None:
        value: Any = claims
        for part in self._provider.claim.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        found = {self._provider.roles.get(name) for name in names if isinstance(name, str)}
        return next((role for role in reversed(Role) if role in found), None)

    def _key(self, key_id: str) -> dict[str, Any]:
        if key_id not in self._keys and time.monotonic() - self._read > KEYS_PAUSE:
            self._about(again=True)
        return self._keys[key_id]

    def _about(self, *, again: bool = False) -> dict[str, Any]:
        """Return what the provider says of itself, and read its keys."""
        with self._turn:
            if self._known and not again and time.monotonic() - self._read < KEYS_AGE:
                return self._known
            issuer = self._provider.issuer
            found = self._fetch(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            if found.get("issuer") != issuer:
                raise self._bad("it calls itself by another name")
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                if urlsplit(str(found.get(name, ""))).scheme != "https":
                    raise self._bad(f"its {name} is not HTTPS")
            keys = self._fetch(found["jwks_uri"]).get("keys")
            if not isinstance(keys, list):
                raise self._bad("it has no keys")
            self._keys = {
                str(one.get("kid", "")): one
                for one in keys
                if isinstance(one, dict) and one.get("use", "sig") == "sig"
            }
            self._known, self._read = found, time.monotonic()
            return found

    def _fetch(
        self, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        parts = urlsplit(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=TIMEOUT, context=self._tls
        )
        try:
            method = "GET" if body is None else "POST"
            asked = {"accept": "application/json", **(headers or {})}
            connection.request(method, path, body, asked)
            response = connection.getresponse()
            data = response.read(ANSWER_LIMIT + 1)
            status = response.status
        except (OSError, http.client.HTTPException) as error:
            raise self._bad(str(error) or type(error).__name__) from error
        finally:
            connection.close()
        try:
            value = json.loads(data) if len(data) <= ANSWER_LIMIT else None
        except (ValueError, RecursionError):
            value = None
        if status != http.client.OK or not isinstance(value, dict):
            if body is not None:
                raise self._refusal(f"the provider refused the code ({status})")
            raise self._bad(f"{parts.path} is answered with {status}, or not by a JSON object")
        return value

    def _bad(self, reason: str) -> HostError:
        return HostError(
            f"the OpenID provider does not answer as it should: {reason}",
            code="oidc",
            component=self._provider.issuer,
            remedy="Check the issuer's URL, and its certificate with --oidc-ca.",
        )

    def _refusal(self, reason: str) -> LoginError:
        _LOG.warning("single sign-on refused: %s", reason)
        return LoginError(_REFUSED, component="oidc")


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
