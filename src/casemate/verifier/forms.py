"""What the forms of the pages do: who may send one, and what is shown after it.

A form counts when it carries the secret of the session whose page made it, and nobody is asked to
send a file before it is known that he may.
"""

from __future__ import annotations

import base64
import hmac
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qs, quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from casemate.errors import (
    ArgumentError,
    CasemateError,
    FormatError,
    NotAuthenticatedError,
    PermissionDeniedError,
)
from casemate.formats.manifest import MAX_SIZE
from casemate.formats.multipart import Part, is_multipart, parse_form
from casemate.machine.fleet import Mode
from casemate.policy.rimreference import RimReference, write_rim_reference
from casemate.verifier.enrol import CADENCE, Wanted
from casemate.verifier.people import Role, Who
from casemate.verifier.rehearsal import UNKNOWN, Rehearsed, rehearse, rehearse_policy
from casemate.verifier.rulebook import Kind
from casemate.verifier.service import Service
from casemate.verifier.web import COOKIE, HEADERS, number_of, peer_of, read_body

FORM_LIMIT = 16 << 10
"""Bytes of a form: a password or a reason."""

UPLOAD_LIMIT = MAX_SIZE + FORM_LIMIT
"""Bytes of a form with files."""

HELD_LIMIT = 4 << 20
"""Bytes of what was tried out and is kept in the page, to be put in force without a new upload."""

OVERLAP_HOURS, LONGEST_OVERLAP = 24, 24 * 365

SHOWN = 1000
"""Hosts of one rehearsal that are shown, those that would fail first."""

_NAMES: Final = {Kind.RUNTIME: "runtime policy", Kind.CORIM: "CoRIM"}

_WORST: Final = {"fail": 0, UNKNOWN: 1, "pass": 2}


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form that somebody sent."""

    fields: Mapping[str, Part]

    def text(self, name: str, default: str = "") -> str:
        """Return a field without the spaces around it."""
        part = self.fields.get(name)
        return part.data.decode("utf-8", "replace").strip() if part is not None else default

    def secret(self, name: str) -> str:
        """Return a field as it is."""
        part = self.fields.get(name)
        return part.data.decode("utf-8", "replace") if part is not None else ""

    def file(self, name: str) -> bytes:
        """Return a file, empty where none was chosen."""
        part = self.fields.get(name)
        return part.data if part is not None else b""

    def needed(self, name: str, what: str) -> bytes:
        """Return a file. Raises ArgumentError where none was chosen."""
        data = self.file(name)
        if not data:
            raise ArgumentError(f"choose {what}", argument=name, component=name)
        return data


@dataclass(frozen=True, slots=True)
class Asked:
    """Who wants what: the fields of the path, and the form."""

    who: str
    path: Mapping[str, str]
    form: Form
    peer: str = ""

    @property
    def name(self) -> str:
        """Of what the form is about."""
        return self.path["name"]

    @property
    def why(self) -> str:
        """The reason, for the audit log."""
        return self.form.text("why")


@dataclass(frozen=True, slots=True)
class Shown:
    """A page to show after a form, instead of going back."""

    page: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Action:
    """A line of the table of forms; ``back`` is where the browser goes then."""

    path: str
    role: Role
    do: Callable[[Asked], object]
    back: str
    limit: int = FORM_LIMIT


class Forms:
    """The forms that change something."""

    def __init__(
        self,
        service: Service,
        show: Callable[[str, Mapping[str, Any]], Response],
        refuse: Callable[[CasemateError, Who, str], Response],
    ) -> None:
        self._service = service
        self._show = show
        self._refuse = refuse

    def routes(self) -> list[Route]:
        """Return all routes."""
        return [Route(one.path, self._handler(one), methods=["POST"]) for one in self._actions()]

    def _actions(self) -> Sequence[Action]:
        enrolment, rules = self._service.enrolment, self._service.rules
        book, people = self._service.book, self._service.people
        operator, administrator = Role.OPERATOR, Role.ADMINISTRATOR
        host = "/hosts/{name}"

        def add_reference(asked: Asked) -> None:
            book.add(_held(asked.form, "a reference"), asked.who, _overlap(asked.form))

        def add_rim(asked: Asked) -> None:
            book.add(_rim(asked.form), asked.who, _overlap(asked.form))

        return (
            Action("/hosts", operator, self._enrol, "/"),
            Action(host + "/attest", operator, lambda a: enrolment.again(a.name, a.who), host),
            Action(host + "/approve", operator,
                   lambda a: enrolment.approve(a.name, a.who, a.why), host),
            Action(host + "/clear", operator,
                   lambda a: enrolment.clear(a.name, a.who, a.why), host),
            Action(host + "/propose", operator,
                   lambda a: enrolment.propose(a.name, a.who, a.why), host),
            # What the page showed, whatever the host has shown since.
            Action(host + "/approve-values", operator,
                   lambda a: rules.approve_values(a.name, a.who, _round(a.form), a.why), host),
            Action(host + "/assign", operator,
                   lambda a: rules.assign(a.name, a.form.text("policy"), a.who), host),
            Action(host + "/remove", administrator,
                   lambda a: enrolment.remove(a.name, a.who, a.why), "/"),
            Action("/verifiers/{name}/forget", operator,
                   lambda a: self._service.forget_verifier(a.name, a.who, a.why), "/alarms"),
            Action("/references", operator, add_reference, "/references", UPLOAD_LIMIT),
            Action("/references/rehearsal", operator, self._rehearse, "/references", UPLOAD_LIMIT),
            Action("/references/rim", operator, add_rim, "/references", UPLOAD_LIMIT),
            Action("/references/rim-rehearsal", operator, self._rehearse_rim, "/references",
                   UPLOAD_LIMIT),
            Action("/references/{name}/withdraw", operator,
                   lambda a: book.withdraw(a.name, a.who, a.why), "/references"),
            Action("/policies", operator,
                   lambda a: rules.add(_held(a.form, "a policy"), a.who), "/policies",
                   UPLOAD_LIMIT),
            Action("/policies/rehearsal", operator, self._rehearse_policy, "/policies",
                   UPLOAD_LIMIT),
            Action("/policies/more", operator, self._add_more, "/policies", UPLOAD_LIMIT),
            Action("/policies/more-rehearsal", operator, self._rehearse_more, "/policies",
                   UPLOAD_LIMIT),
            Action("/users", administrator, self._add_user, "/users"),
            Action("/users/{name}/role", administrator,
                   lambda a: people.set_role(a.name, _role(a.form), a.who), "/users"),
            Action("/users/{name}/password", administrator,
                   lambda a: people.set_password(a.name, a.form.secret("password"), a.who),
                   "/users"),
            Action("/users/{name}/remove", administrator,
                   lambda a: people.remove(a.name, a.who), "/users"),
            Action("/password", Role.VIEWER, self._change_password, "/password"),
        )  # fmt: skip

    def _handler(self, action: Action) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            try:
                cookie = request.cookies.get(COOKIE, "")
                who = await run_in_threadpool(self._service.people.check, cookie)
            except NotAuthenticatedError:
                return unread(RedirectResponse("/login", 303, dict(HEADERS)), None)
            path = request.path_params
            back = action.back.format(**{key: quote(value, "") for key, value in path.items()})
            form: Form | None = None
            try:
                who.need(action.role)
                form = await read_form(request, action.limit)
                check_csrf(who, form)
                result = await run_in_threadpool(
                    action.do, Asked(who.name, path, form, peer_of(request))
                )
            except CasemateError as error:
                return unread(await run_in_threadpool(self._refuse, error, who, back), form)
            if isinstance(result, Shown):
                values = {"who": who, "back": back, **result.values}
                return await run_in_threadpool(self._show, result.page, values)
            if isinstance(result, Response):
                return result
            return RedirectResponse(back, 303, dict(HEADERS))

        return handle

    def _enrol(self, asked: Asked) -> object:
        form = asked.form
        try:
            cadence = float(form.text("cadence") or CADENCE)
        except ValueError:
            raise ArgumentError("the cadence is no number", argument="cadence") from None
        mode = Mode.PUSH if form.text("mode") == Mode.PUSH else Mode.PULL
        wanted = Wanted(
            form.text("name"), form.text("address"), mode, form.text("profile"), cadence
        )
        if mode is Mode.PULL:
            host = self._service.enrolment.pull(wanted, asked.who)
            return RedirectResponse(f"/hosts/{quote(host.name, '')}", 303, dict(HEADERS))
        host, secret = self._service.enrolment.invite(wanted, asked.who)
        return Shown("invited", {"page": "fleet", "host": host.name, "secret": secret})

    def _rehearse(self, asked: Asked) -> Shown:
        return self._tried(_held(asked.form, "a reference"), _overlap(asked.form))

    def _rehearse_rim(self, asked: Asked) -> Shown:
        return self._tried(_rim(asked.form), _overlap(asked.form))

    def _tried(self, data: bytes, overlap: timedelta) -> Shown:
        candidate = self._service.book.check(data)
        hosts = rehearse(self._service.database, self._service.anchors, candidate)
        about = f"{candidate.manifest.profile_name} {candidate.manifest.build}"
        hours = {"overlap": str(int(overlap.total_seconds()) // 3600)}
        return _rehearsal("references", "reference", about, hosts, data, hours)

    def _rehearse_policy(self, asked: Asked) -> Shown:
        data = _held(asked.form, "a policy")
        assigned = self._service.rules.check(data)
        everyone = asked.form.text("hosts") == "all"
        service = self._service
        hosts = rehearse_policy(
            service.database, service.anchors, service.book, assigned, everyone=everyone
        )
        policy = assigned.rules.policy
        about = f"{policy.name} {policy.version}"
        return _rehearsal("policies", "policy", about, hosts, data, {})

    def _add_more(self, asked: Asked) -> object:
        form, rules = asked.form, self._service.rules
        name, data = form.text("policy"), _held(form, "a file")
        if _more(form) is Kind.RUNTIME:
            return rules.add_runtime(name, data, asked.who)
        return rules.add_corim(name, data, asked.who)

    def _rehearse_more(self, asked: Asked) -> Shown:
        form, service = asked.form, self._service
        name, kind, data = form.text("policy"), _more(form), _held(form, "a file")
        assigned = service.rules.check_more(name, kind, data)
        hosts = rehearse_policy(service.database, service.anchors, service.book, assigned)
        fields = {"kind": kind.value, "policy": name}
        about = f"for {name}"
        return _rehearsal("policies", _NAMES[kind], about, hosts, data, fields, "/policies/more")

    def _change_password(self, asked: Asked) -> Response:
        old, new, again = map(asked.form.secret, ("old", "new", "again"))
        if new != again:
            raise ArgumentError("the new password was not typed twice alike", argument="again")
        self._service.people.change_password(asked.who, old, new, asked.peer)
        answer = RedirectResponse("/login", 303, dict(HEADERS))
        answer.delete_cookie(COOKIE, secure=True, path="/")
        return answer

    def _add_user(self, asked: Asked) -> None:
        form, people = asked.form, self._service.people
        name = form.text("name")
        if any(one.name == name for one in people.all()):
            raise ArgumentError(f"{name} is there already", argument="name", component=name)
        people.put(name, _role(form), form.secret("password"), asked.who)


def _rehearsal(
    page: str, kind: str, about: str, hosts: Sequence[Rehearsed], data: bytes,
    fields: Mapping[str, str], put: str = "",
) -> Shown:  # fmt: skip
    ordered = sorted(hosts, key=lambda one: (_WORST[one.would], one.host))
    values = {
        "page": page,
        "kind": kind,
        "about": about,
        "counts": dict(Counter(one.would for one in ordered)),
        "hosts": [asdict(one) for one in ordered[:SHOWN]],
        "more": max(0, len(ordered) - SHOWN),
        "held": base64.b64encode(data).decode() if len(data) <= HELD_LIMIT else "",
        "fields": fields,
        "put": put or f"/{page}",
    }
    return Shown("rehearsal", values)


def _held(form: Form, what: str) -> bytes:
    """Return the file of a form, or what a rehearsal has kept of it in its page."""
    held = form.file("held")
    if not held:
        return form.needed("file", what)
    try:
        return base64.b64decode(held, validate=True)
    except ValueError as error:
        raise FormatError("what was tried out came back damaged", code="form-malformed") from error


def _rim(form: Form) -> bytes:
    rim, log = form.needed("rim", "the manifest"), form.needed("log", "the event log it lists")
    return write_rim_reference(
        RimReference(
            form.text("name"),
            datetime.now(UTC).replace(microsecond=0),
            rim,
            form.text("log_name") or (form.fields["log"].file or ""),
            log,
            form.file("signature"),
            form.file("signer"),
        )
    )


def _overlap(form: Form) -> timedelta:
    hours = number_of(form.text("overlap"))
    return timedelta(hours=OVERLAP_HOURS if hours is None else min(hours, LONGEST_OVERLAP))


def _more(form: Form) -> Kind:
    kind = form.text("kind")
    if kind not in _NAMES:
        raise ArgumentError(f"there is no kind {kind[:32]!r}", argument="kind")
    return Kind(kind)


def _round(form: Form) -> int:
    number = number_of(form.text("round"))
    if number is None:
        raise ArgumentError("which round was looked at is not said", argument="round")
    return number


def _role(form: Form) -> Role:
    try:
        return Role(form.text("role"))
    except ValueError:
        raise ArgumentError(f"roles are: {', '.join(Role)}", argument="role") from None


async def read_form(request: Request, limit: int = FORM_LIMIT) -> Form:
    """Read a form, with or without files. Raises FormatError, LimitError."""
    data, kind = await read_body(request, limit), request.headers.get("content-type", "")
    if is_multipart(kind):
        return Form(parse_form(data, kind))
    try:
        values = parse_qs(data.decode("utf-8", "replace"), max_num_fields=16)
    except ValueError as error:
        raise FormatError("a form with too many fields", code="form-malformed") from error
    return Form({key: Part(found[0].encode("utf-8", "replace")) for key, found in values.items()})


def unread(answer: Response, form: Form | None) -> Response:
    """End the connection after an answer where the form was not read, whose rest may never come."""
    if form is None:
        answer.headers["connection"] = "close"
    return answer


def check_csrf(who: Who, form: Form) -> None:
    """Check that a page of this session made a form. Raises PermissionDeniedError."""
    if not hmac.compare_digest(form.file("csrf"), who.csrf.encode()):
        raise PermissionDeniedError("This form is not of this session.", privilege="csrf")
