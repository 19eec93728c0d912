"""The pages: the same views as the REST interface has, for a browser.

A session cookie shows pages; whatever changes something is a form (``forms``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from casemate.errors import CasemateError, LoginError, NotAuthenticatedError
from casemate.policy.statemachine import State
from casemate.verifier import alarmstore, rulestore, views
from casemate.verifier.forms import Form, Forms, check_csrf, read_form, unread
from casemate.verifier.oidc import LIFETIME
from casemate.verifier.people import Role, Who
from casemate.verifier.service import Service
from casemate.verifier.web import COOKIE, HEADERS, number_of, peer_of, status_of

SIGNING_IN = "__Host-casemate-signing-in"
"""Ties the way to the OpenID provider and back to one browser."""

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
        self._forms = Forms(service, self._html, self._refusal)

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
            Route("/references", self._page(self._references)),
            Route("/policies", self._page(self._policies)),
            Route("/alarms", self._page(self._alarms)),
            Route("/audit", self._page(self._audit)),
            Route("/users", self._page(self._users)),
            Route("/password", self._page(lambda _request, _who: {"page": "password"})),
            *self._forms.routes(),
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
        values = {"who": who, "page": "", "error": asdict(error.finding()), "back": back}
        return self._html("error", values, status_of(error))

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

    def _host(self, request: Request, _who: Who) -> dict[str, Any]:
        name, number = request.path_params["name"], request.query_params.get("round", "")
        which = number_of(number)
        with self._service.database.transaction() as step:
            host = views.host(step, name)
            known = host["rounds"] or which is not None
            query = request.query_params
            other = views.Against(
                query.get("against", ""), number_of(query.get("against-round", ""))
            )
            found, log = None, None
            if known:
                book = self._service.book
                found, log = views.evidence_in_parts(step, book, name, which, other)
            policies = sorted({one.name for one in rulestore.policies(step)})
        return {
            "page": "host",
            "host": host,
            "round": found,
            "log": log,
            "pcr": number_of(request.query_params.get("pcr", "")),
            "start": number_of(request.query_params.get("from", "")) or 0,
            "policies": policies,
        }

    def _references(self, _request: Request, _who: Who) -> dict[str, Any]:
        with self._service.database.transaction() as step:
            return {"page": "references", "view": views.references(step)}

    def _policies(self, _request: Request, _who: Who) -> dict[str, Any]:
        with self._service.database.transaction() as step:
            return {"page": "policies", "view": views.policies(step)}

    def _alarms(self, _request: Request, _who: Who) -> dict[str, Any]:
        with self._service.database.transaction() as step:
            found = alarmstore.alarms(step, standing=False)
        return {"page": "alarms", "alarms": [asdict(one) for one in found]}

    def _users(self, _request: Request, who: Who) -> dict[str, Any]:
        who.need(Role.ADMINISTRATOR)
        users = [
            {"name": one.name, "role": one.role, "single": not one.hash}
            for one in self._service.people.all()
        ]
        return {"page": "users", "users": users, "roles": list(Role)}

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
        form: Form | None = None
        try:
            form = await read_form(request)
            user, password = form.text("user"), form.secret("password")
            login = self._service.people.login
            handle = await run_in_threadpool(login, user, password, peer_of(request))
        except CasemateError as error:
            status = 401 if isinstance(error, LoginError) else 400
            return unread(self._login_form(error.reason, status), form)
        answer = RedirectResponse("/", 303, dict(HEADERS))
        answer.set_cookie(COOKIE, handle, secure=True, httponly=True, samesite="strict", path="/")
        return answer

    async def _logout(self, request: Request) -> Response:
        handle = request.cookies.get(COOKIE, "")
        form: Form | None = None
        try:
            form = await read_form(request)
            check_csrf(await run_in_threadpool(self._service.people.check, handle), form)
        except CasemateError:
            return unread(RedirectResponse("/login", 303, dict(HEADERS)), form)
        await run_in_threadpool(self._service.people.logout, handle)
        answer = RedirectResponse("/login", 303, dict(HEADERS))
        answer.delete_cookie(COOKIE, secure=True, path="/")
        return answer

    async def _asset(self, request: Request) -> Response:
        try:
            data = self._look.asset(request.path_params["name"])
        except FileNotFoundError:
            return Response("There is no such file.", 404, dict(HEADERS), "text/plain")
        headers = {**HEADERS, "cache-control": "max-age=3600"}
        return Response(data, 200, headers, "text/css; charset=utf-8")
