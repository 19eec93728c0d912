"""The pages: the same views and the same actions as the REST interface, for a browser.

A session cookie shows pages; whatever changes something is a form with the session's secret in it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Protocol
from urllib.parse import parse_qs, quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from casemate.errors import (
    ArgumentError,
    CasemateError,
    LoginError,
    NotAuthenticatedError,
    NotFoundError,
    PermissionDeniedError,
)
from casemate.policy.statemachine import State
from casemate.verifier import alarmstore, rulestore, views
from casemate.verifier.oidc import LIFETIME
from casemate.verifier.people import Role, Who
from casemate.verifier.service import Service
from casemate.verifier.web import COOKIE, HEADERS, number_of, read_body

SIGNING_IN = "__Host-casemate-signing-in"
"""Ties the way to the OpenID provider and back to one browser."""

FORM_LIMIT = 16 << 10
"""Bytes of a form: a password or a reason."""


HOSTS_SHOWN = 200
"""Hosts of one page."""

_ORDER = (
    *(State.LATCHED, State.FAILED, State.ERROR, State.EXPIRED, State.UNKNOWN),
    *(State.NOT_APPRAISED, State.PENDING, State.TRUSTED, State.REMOVED),
)
"""What an operator wants to see first."""

SORTS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "name": lambda host: host["name"],
    "state": lambda host: (_ORDER.index(State(host["state"])), host["name"]),
    "age": lambda host: (host["age"] is None, host["age"] or 0.0),
    "verdict": lambda host: (host["verdict"], host["name"]),
    "image": lambda host: (host["image"], host["name"]),
    "policy": lambda host: (host["policy"], host["name"]),
    "mode": lambda host: (host["mode"], host["name"]),
}
"""How hosts may be sorted; what is alike, by name."""


class Look(Protocol):
    """How pages look: what the user interface brings."""

    def render(self, name: str, values: Mapping[str, Any]) -> str:
        """Return the HTML of a page."""
        ...

    def stream(self, name: str, values: Mapping[str, Any]) -> Iterator[str]:
        """Return the HTML of a page piece by piece, the first as soon as it is there."""
        ...

    def asset(self, name: str) -> bytes:
        """Return a style sheet. Raises FileNotFoundError."""
        ...


class Pages:
    """The routes of a browser."""

    def __init__(self, service: Service, look: Look) -> None:
        self._service = service
        self._look = look
        enrolment, rules = service.enrolment, service.rules
        self._actions: dict[str, Callable[[str, str, Mapping[str, str]], object]] = {
            "attest": lambda name, who, _: enrolment.again(name, who),
            "approve": lambda name, who, form: enrolment.approve(name, who, _why(form)),
            "clear": lambda name, who, form: enrolment.clear(name, who, _why(form)),
            "propose": lambda name, who, form: enrolment.propose(name, who, _why(form)),
            # What the page showed, whatever the host has shown since.
            "approve-values": lambda name, who, form: rules.approve_values(
                name, who, _round(form), _why(form)
            ),
            "assign": lambda name, who, form: rules.assign(name, form.get("policy", ""), who),
        }

    def routes(self) -> list[Route]:
        """Return all routes."""
        return [
            Route("/login", self._login_page),
            Route("/login", self._login, methods=["POST"]),
            Route("/login/oidc", self._leave),
            Route("/login/oidc/callback", self._return),
            Route("/logout", self._logout, methods=["POST"]),
            Route("/assets/{name}", self._asset),
            Route("/", self._page(self._fleet)),
            Route("/hosts/{name}", self._page(self._host)),
            Route("/hosts/{name}/{action}", self._act, methods=["POST"]),
            Route("/verifiers/{name}/forget", self._forget, methods=["POST"]),
            Route("/references", self._page(self._references)),
            Route("/policies", self._page(self._policies)),
            Route("/alarms", self._page(self._alarms)),
            Route("/audit", self._page(self._audit)),
        ]

    def _html(self, name: str, values: Mapping[str, Any], status: int = 200) -> Response:
        return HTMLResponse(self._look.render(name, values), status, dict(HEADERS))

    def _page(self, view: Callable[[Request, Who], dict[str, Any]]) -> Callable[[Request], Any]:
        def work(request: Request) -> Response:
            try:
                who = self._service.people.check(request.cookies.get(COOKIE, ""))
            except NotAuthenticatedError:
                return RedirectResponse("/login", 303, dict(HEADERS))
            try:
                values = view(request, who)
            except CasemateError as error:
                return self._refusal(error, who, "/")
            # A page can be long: its beginning is shown while the rest is still worked out.
            pieces = self._look.stream(values["page"], {"who": who, **values})
            return StreamingResponse(pieces, 200, dict(HEADERS), "text/html")

        async def handle(request: Request) -> Response:
            return await run_in_threadpool(work, request)

        return handle

    def _refusal(self, error: CasemateError, who: Who, back: str) -> Response:
        status = 404 if isinstance(error, NotFoundError) else 409
        values = {"who": who, "page": "", "error": asdict(error.finding()), "back": back}
        return self._html("error", values, status)

    def _fleet(self, request: Request, _who: Who) -> dict[str, Any]:
        with self._service.database.transaction() as step:
            fleet = views.fleet(step)
        chosen = request.query_params.get("state", "")
        text = request.query_params.get("q", "")[:100]
        hosts = [
            host
            for host in fleet["hosts"]
            if (not chosen or host["state"] == chosen)
            and text.lower() in f"{host['name']} {host['verdict']}".lower()
        ]
        sort = request.query_params.get("sort", "state")
        if sort.removeprefix("-") not in SORTS:
            sort = "state"
        hosts.sort(key=SORTS[sort.removeprefix("-")], reverse=sort.startswith("-"))
        pages = max(1, -(-len(hosts) // HOSTS_SHOWN))
        at = min(max(number_of(request.query_params.get("page", "")) or 1, 1), pages)
        return {
            "page": "fleet",
            "fleet": fleet,
            "hosts": hosts[(at - 1) * HOSTS_SHOWN : at * HOSTS_SHOWN],
            "found": len(hosts),
            "chosen": chosen,
            "text": text,
            "sort": sort,
            "pages": pages,
            "at": at,
        }

    def _host(self, request: Request, who: Who) -> dict[str, Any]:
        name, number = request.path_params["name"], request.query_params.get("round", "")
        which = number_of(number)
        with self._service.database.transaction() as step:
            host = views.host(step, name)
            known = host["rounds"] or which is not None
            book, against = self._service.book, request.query_params.get("against", "")
            found, log = None, None
            if known:
                found, log = views.evidence_in_parts(step, book, name, which, against)
            policies = sorted({one.name for one in rulestore.policies(step)})
        return {
            "page": "host",
            "host": host,
            "round": found,
            "log": log,
            "pcr": number_of(request.query_params.get("pcr", "")),
            "start": number_of(request.query_params.get("from", "")) or 0,
            "policies": policies,
            "can_act": who.role in {Role.OPERATOR, Role.ADMINISTRATOR},
        }

    def _references(self, _request: Request, _who: Who) -> dict[str, Any]:
        with self._service.database.transaction() as step:
            return {"page": "references", "view": views.references(step)}

    def _policies(self, _request: Request, _who: Who) -> dict[str, Any]:
        with self._service.database.transaction() as step:
            return {"page": "policies", "view": views.policies(step)}

    def _alarms(self, _request: Request, who: Who) -> dict[str, Any]:
        with self._service.database.transaction() as step:
            found = alarmstore.alarms(step, standing=False)
        return {
            "page": "alarms",
            "alarms": [asdict(one) for one in found],
            "can_act": who.role in {Role.OPERATOR, Role.ADMINISTRATOR},
        }

    def _audit(self, _request: Request, _who: Who) -> dict[str, Any]:
        view = views.audit_log(self._service.database, self._service.audit)
        return {"page": "audit", "view": view}

    async def _login_page(self, _request: Request) -> Response:
        return self._login_form("")

    def _login_form(self, error: str, status: int = 200) -> Response:
        values = {"who": None, "page": "", "error": error, "sso": bool(self._service.sign_on)}
        return self._html("login", values, status)

    async def _leave(self, _request: Request) -> Response:
        """Send the browser to the OpenID provider."""
        sign_on = self._service.sign_on
        if sign_on is None:
            return self._login_form("There is no single sign-on here.", 404)
        try:
            leaving = await run_in_threadpool(sign_on.begin)
        except CasemateError as error:
            return self._login_form(error.reason, 502)
        answer = RedirectResponse(leaving.location, 303, dict(HEADERS))
        # The provider sends the browser back from another site, so this one cookie is lax.
        answer.set_cookie(
            SIGNING_IN, leaving.cookie, secure=True, httponly=True, samesite="lax", path="/",
            max_age=int(LIFETIME),
        )  # fmt: skip
        return answer

    async def _return(self, request: Request) -> Response:
        """Take a browser back from the OpenID provider."""
        sign_on = self._service.sign_on
        if sign_on is None:
            return self._login_form("There is no single sign-on here.", 404)
        cookie = request.cookies.get(SIGNING_IN, "")
        query = dict(request.query_params)
        try:
            handle = await run_in_threadpool(sign_on.finish, query, cookie)
        except CasemateError as error:
            return self._login_form(error.reason, 401 if isinstance(error, LoginError) else 502)
        # A page that leads on by itself: a strict cookie is not sent after a redirect from abroad.
        answer = self._html("arrived", {"who": None, "page": ""})
        answer.headers["refresh"] = "0; url=/"
        answer.set_cookie(COOKIE, handle, secure=True, httponly=True, samesite="strict", path="/")
        answer.delete_cookie(SIGNING_IN, secure=True, path="/")
        return answer

    async def _login(self, request: Request) -> Response:
        try:
            form = await _form(request)
            handle = await run_in_threadpool(
                self._service.people.login, form.get("user", ""), form.get("password", "")
            )
        except CasemateError as error:
            status = 401 if isinstance(error, LoginError) else 400
            return self._login_form(error.reason, status)
        answer = RedirectResponse("/", 303, dict(HEADERS))
        answer.set_cookie(COOKIE, handle, secure=True, httponly=True, samesite="strict", path="/")
        return answer

    async def _logout(self, request: Request) -> Response:
        handle = request.cookies.get(COOKIE, "")
        try:
            await self._checked(request)
        except CasemateError:
            return RedirectResponse("/login", 303, dict(HEADERS))
        await run_in_threadpool(self._service.people.logout, handle)
        answer = RedirectResponse("/login", 303, dict(HEADERS))
        answer.delete_cookie(COOKIE, secure=True, path="/")
        return answer

    async def _act(self, request: Request) -> Response:
        action = self._actions.get(request.path_params["action"])
        return await self._do(request, action, f"/hosts/{quote(request.path_params['name'])}")

    async def _forget(self, request: Request) -> Response:
        def forget(name: str, who: str, form: Mapping[str, str]) -> None:
            self._service.forget_verifier(name, who, _why(form))

        return await self._do(request, forget, "/alarms")

    async def _do(
        self,
        request: Request,
        action: Callable[[str, str, Mapping[str, str]], object] | None,
        back: str,
    ) -> Response:
        name = request.path_params["name"]
        try:
            who, form = await self._checked(request)
        except NotAuthenticatedError:
            return RedirectResponse("/login", 303, dict(HEADERS))
        except CasemateError as error:
            return Response(error.reason, 403, dict(HEADERS), "text/plain")
        try:
            who.need(Role.OPERATOR)
            if action is None:
                raise NotFoundError("There is no such action.")
            await run_in_threadpool(action, name, who.name, form)
        except CasemateError as error:
            return await run_in_threadpool(self._refusal, error, who, back)
        return RedirectResponse(back, 303, dict(HEADERS))

    async def _asset(self, request: Request) -> Response:
        try:
            data = self._look.asset(request.path_params["name"])
        except FileNotFoundError:
            return Response("There is no such file.", 404, dict(HEADERS), "text/plain")
        headers = {**HEADERS, "cache-control": "max-age=3600"}
        return Response(data, 200, headers, "text/css; charset=utf-8")

    async def _checked(self, request: Request) -> tuple[Who, dict[str, str]]:
        """Return who sent a form that this session's page made."""
        form = await _form(request)
        handle = request.cookies.get(COOKIE, "")
        who = await run_in_threadpool(self._service.people.check, handle)
        if not hmac.compare_digest(form.get("csrf", "").encode(), who.csrf.encode()):
            raise PermissionDeniedError("This form is not of this session.", privilege="csrf")
        return who, form


def _round(form: Mapping[str, str]) -> int:
    number = number_of(form.get("round", ""))
    if number is None:
        raise ArgumentError("which round was looked at is not said", argument="round")
    return number


def _why(form: Mapping[str, str]) -> str:
    return form.get("why", "")


async def _form(request: Request) -> dict[str, str]:
    data = (await read_body(request, FORM_LIMIT)).decode("utf-8", "replace")
    return {key: values[0] for key, values in parse_qs(data, max_num_fields=16).items()}
