"""``casemate verifier``: run a verifier, and tell it about hosts, references and people.

Commands other than ``up`` work on the verifier's state directory through the same handlers as its
REST interface, as the local administrator, or as ``--user`` with a password.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from rich.table import Table
from rich.text import Text

from casemate.cli import verifierpolicy, verifierup
from casemate.cli.terminal import PlainConsole
from casemate.cli.verifierup import DEFAULT_STATE, open_service
from casemate.errors import ArgumentError, NotFoundError
from casemate.formats.text import escape
from casemate.ui.verifier.render import STATE_KIND, age
from casemate.verifier.endpoints import API, ENDPOINTS
from casemate.verifier.people import Role, Who
from casemate.verifier.service import Service
from casemate.verifier.web import Call

_COLOURS = {"good": "green", "bad": "bold red", "warn": "yellow", "none": "dim"}
_BAD_STATES = frozenset(name for name, kind in STATE_KIND.items() if kind == "bad")
_PASSWORD = "CASEMATE_VERIFIER_PASSWORD"  # noqa: S105 (the name of a variable)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``verifier`` with its commands."""
    parser = commands.add_parser("verifier", help="attest a fleet of hosts, with a web interface")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    verifierup.add_parsers(actions)
    enroll = _action(actions, "enroll", "challenge a host's TPM and enrol it, pending approval")
    enroll.add_argument("host", metavar="HOST[:PORT]", help="its address, or its name with --push")
    enroll.add_argument("--name", help="what to call it (default: the address)")
    enroll.add_argument("--push", action="store_true", help="its agent will call: casemate agent")
    enroll.add_argument("--profile", default="", help="image profile that it should run")
    enroll.add_argument("--cadence", type=float, default=60.0, help="seconds between rounds (60)")
    enroll.add_argument("--approve", action="store_true", help="approve it at once")
    enroll.set_defaults(func=_enroll)
    _action(actions, "list", "all hosts with their states").set_defaults(func=_list)
    for name, about in (
        ("show", "one host: verdict, findings, timeline"),
        ("approve", "approve a host, or its new TPM as a second person"),
        ("propose", "propose the TPM that a host has now (a swapped board)"),
        ("clear", "clear a latched failure"),
        ("attest", "ask a host now"),
        ("remove", "forget a host"),
        ("token", "a signed result for a relying party"),
    ):
        one = _action(actions, name, about)
        one.add_argument("host", help="the host's name")
        if name in {"approve", "propose", "clear", "remove"}:
            one.add_argument("--why", default="", help="reason, for the audit log")
        if name == "token":
            one.add_argument("--nonce", default="", help="goes into the token")
        one.set_defaults(func=_show if name == "show" else _do)
    _references(actions)
    policy = _action(actions, "policy", "signed policies: what of a host must be as it was")
    verifierpolicy.add_arguments(policy)
    policy.set_defaults(func=_policy)
    users = _action(actions, "users", "people and their roles")
    users.add_argument(
        "change", nargs="?", choices=("list", "put", "remove", "password"), default="list"
    )
    users.add_argument("name", nargs="?", help="whom; password: --user, that is oneself")
    users.add_argument("--role", choices=[role.value for role in Role], default="viewer")
    users.set_defaults(func=_users)
    _action(actions, "audit", "the audit log; checks its chain").set_defaults(func=_audit)


def _references(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    reference = _action(actions, "reference", "signed references in force")
    reference.add_argument(
        "change", nargs="?", choices=("list", "add", "check", "withdraw"), default="list"
    )
    reference.add_argument(
        "what", nargs="?", help="file to add or check, or identifier to withdraw"
    )
    reference.add_argument(
        "--overlap", type=int, default=24, help="hours that the one before still counts (24)"
    )
    reference.add_argument("--why", default="", help="reason, for the audit log")
    verifierpolicy.add_rim_arguments(reference)
    reference.set_defaults(func=_reference)


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=about)
    parser.add_argument(
        "--state", type=Path, default=DEFAULT_STATE, help="the verifier's directory"
    )
    parser.add_argument("--user", help=f"act as this person; password from {_PASSWORD} or asked")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


class _Session:
    """The handlers of the REST interface, called in this process."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.service: Service = open_service(options.state)
        self.password = ""
        self._who = self._login(options.user)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.service.close()

    def _login(self, user: str | None) -> Who:
        if user is None:
            return Who(os.environ.get("SUDO_USER", "root"), Role.ADMINISTRATOR, "")
        self.password = os.environ.get(_PASSWORD) or getpass.getpass(f"Password of {user}: ")
        return self.service.people.check(self.service.people.login(user, self.password))

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        raw: bytes = b"",
    ) -> Any:  # noqa: ANN401 (JSON)
        """Call an endpoint below ``/api/v1``."""
        for one in ENDPOINTS:
            match = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", one.path), API + path)
            if one.method == method and match:
                if one.role is not None:
                    self._who.need(one.role)
                call = Call(match.groupdict(), query or {}, body or {}, raw, who=self._who)
                return one.handler(self.service, call)
        raise NotFoundError(f"there is no {method} {path}")


def _enroll(options: argparse.Namespace) -> int:
    name = options.name or options.host
    body = {
        "name": name,
        "address": "" if options.push else options.host,
        "push": options.push,
        "profile": options.profile,
        "cadence": options.cadence,
    }
    with _Session(options) as session:
        told = session.ask("POST", "/hosts", body)
        if options.approve and not options.push:
            told |= session.ask("POST", f"/hosts/{name}/approve", {"why": "at enrolment"})
    if options.json:
        print(json.dumps(told))
        return 0
    console = PlainConsole()
    console.print(f"{told['name']}: {told['state']}")
    if told["ek"]:
        words = f"TPM {told['ek']}, vouched for by {escape(told['issuer'])}"
        console.print(words, soft_wrap=True)
    if "token" in told:
        console.print(f"Secret for its agent, shown this once: {told['token']}")
    elif told["state"] == "pending":
        console.print(f"Compare the TPM, then: casemate verifier approve {name}")
    return 0


def _list(options: argparse.Namespace) -> int:
    with _Session(options) as session:
        fleet = session.ask("GET", "/fleet")
    if options.json:
        print(json.dumps(fleet))
    else:
        table = _table("host", "state", "last good", "image", "verdict")
        for host in fleet["hosts"]:
            table.add_row(
                Text(host["name"]),
                Text(host["state"], style=_COLOURS[STATE_KIND[host["state"]]]),
                Text(age(host["age"])),
                Text(host["image"]),
                Text(escape(host["verdict"])),
            )
        PlainConsole().print(table)
        for alarm in fleet["alarms"]:
            print(f"alarm {alarm['code']} {alarm['host']}: {escape(alarm['sentence'])}")
    return 1 if any(host["state"] in _BAD_STATES for host in fleet["hosts"]) else 0


def _show(options: argparse.Namespace) -> int:
    with _Session(options) as session:
        host = session.ask("GET", f"/hosts/{options.host}")
        found = None
        if host["rounds"]:
            found = session.ask("GET", f"/hosts/{options.host}/evidence")
    if options.json:
        print(json.dumps({**host, "round": found}))
    else:
        console = PlainConsole()
        style = _COLOURS[STATE_KIND[host["state"]]]
        console.print(Text(f"{host['name']}: {host['state']}", style=style))
        console.print(escape(host["verdict"]), soft_wrap=True)
        console.print(f"TPM {host['ek']}, vouched for by {escape(host['issuer'])}")
        result = (found or {}).get("result") or {}
        if found:
            console.print(f"round {found['number']}")
        for section, tier in result.get("sections", {}).items():
            console.print(f"  {section:20} {tier}")
        for finding in result.get("findings", []):
            words = f"{finding['code']} {finding['component']}: {finding['reason']}"
            console.print(escape(words), soft_wrap=True)
            console.print(f"  {escape(finding['remedy'])}", soft_wrap=True)
    return 0 if STATE_KIND[host["state"]] == "good" else 1


def _do(options: argparse.Namespace) -> int:
    path, query, body = f"/hosts/{options.host}", {}, {}
    if hasattr(options, "why"):
        body = {"why": options.why}
    method = "POST"
    if options.action == "remove":
        method = "DELETE"
    else:
        path += f"/{options.action}"
    if options.action == "token":
        method, query = "GET", {"nonce": options.nonce}
    with _Session(options) as session:
        told = session.ask(method, path, body, query=query)
    if options.json:
        print(json.dumps(told))
    else:
        print(told["token"] if "token" in told else f"{options.host}: {told.get('state', 'done')}")
    return 0 if told.get("allowed", True) else 1


def _reference(options: argparse.Namespace) -> int:
    with _Session(options) as session:
        if options.change == "list":
            told = session.ask("GET", "/references")
        elif not options.what:
            raise ArgumentError(f"name what to {options.change}", argument="what")
        elif options.change == "check":
            told = session.ask("POST", "/rehearsal", raw=verifierpolicy.read_reference(options))
            return _rehearsed(told, as_json=options.json)
        elif options.change == "add":
            raw = verifierpolicy.read_reference(options)
            query = {"overlap": str(options.overlap)}
            told = session.ask("POST", "/references", query=query, raw=raw)
        else:
            told = session.ask("DELETE", f"/references/{options.what}", {"why": options.why})
    if options.json:
        print(json.dumps(told))
    elif options.change != "list":
        print(f"{told['identifier'][:16]}: {told.get('state', 'in force')}")
    else:
        table = _table("reference", "image", "serial", "state", "hosts", "signer")
        for one in told["references"]:
            image = f"{one['profile']} {one['build']}"
            row = (one["identifier"][:12], image, str(one["serial"]), one["state"])
            table.add_row(*map(Text, (*row, str(one["hosts"]), one["signer"])))
        PlainConsole().print(table)
    return 0


def _policy(options: argparse.Namespace) -> int:
    if options.change == "sign":
        return verifierpolicy.sign(options)
    if options.change == "reference":
        return verifierpolicy.make_reference(options)
    if options.change == "export-corim":
        return verifierpolicy.export_corim(options)
    with _Session(options) as session:
        return verifierpolicy.run(options, session)


def _rehearsed(told: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(told))
    else:
        table = _table("host", "state", "would", "verdict")
        for one in told["hosts"]:
            table.add_row(
                *(Text(escape(one[key])) for key in ("host", "state", "would", "sentence"))
            )
        PlainConsole().print(table)
    return verifierpolicy.status_of(told["counts"])


def _users(options: argparse.Namespace) -> int:
    with _Session(options) as session:
        if options.change == "list":
            told = session.ask("GET", "/users")
        elif options.change == "password":
            if options.user is None:
                raise ArgumentError("name yourself: --user NAME", argument="user")
            body = {"old": session.password, "new": _new_password()}
            told = session.ask("POST", "/password", body)
        elif not options.name:
            raise ArgumentError("name the person", argument="name")
        elif options.change == "remove":
            told = session.ask("DELETE", f"/users/{options.name}")
        else:
            body = {"role": options.role, "password": _new_password()}
            told = session.ask("PUT", f"/users/{options.name}", body)
    if options.json:
        print(json.dumps(told))
    else:
        for one in told.get("users", [told]):
            done = "password changed" if "changed" in one else "removed"
            print(f"{one['name']}: {one.get('role', done)}")
    return 0


def _new_password() -> str:
    return os.environ.get("CASEMATE_NEW_PASSWORD") or getpass.getpass("New password: ")


def _audit(options: argparse.Namespace) -> int:
    with _Session(options) as session:
        told = session.ask("GET", "/audit")
        # Each look checks a piece of a long log.
        while not told["broken"] and told["checked"] < told["lines"]:
            told = session.ask("GET", "/audit")
    if options.json:
        print(json.dumps(told))
    else:
        for one in reversed(told["entries"]):
            print(
                escape(
                    f"{one['number']:5} {one['who']} {one['action']} {one['thing']} {one['why']}"
                )
            )
        print(told["broken"] or f"{told['lines']} lines, chain whole, head {told['head']}")
    return 1 if told["broken"] else 0


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=title != "verdict")
    return table
