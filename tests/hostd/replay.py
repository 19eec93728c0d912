"""Plays recorded requests of a client against a host of ours, with our ids in place of theirs.

A recording is text: ``##### NAME`` for each command, then ``>>> METHOD PATH``, headers, a blank
line, the body, and the answer after ``<<< STATUS``. What an id of the recording is here follows
from the answers: both are walked side by side, and references in the same place mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from xml.etree import ElementTree as ET

from casemate.testing.soapclient import Reply, SoapClient

WAITS = frozenset({"WaitForUpdatesEx", "WaitForUpdates"})
TURNS = 200
TASK_SECONDS = 1
OK = 200
_METHOD = re.compile(r"<(?:\w+:)?Body><(?:\w+:)?(\w+)")
_REFERENCE = re.compile(r'(<[\w:.\-]+[^<>]*?\btype="([A-Z]\w+)"[^<>]*>)([^<>]+)(?=</)')
_ROLE = re.compile(r"(<roleId>)(\d+)(?=</roleId>)")
_DEVICE_KEY = re.compile(
    r'(<[^<>]*type="(?:VirtualMachineBootOptions)?(\w+)"[^<>]*><(?:key|deviceKey)>)(\d+)(?=</)'
)
_CONTROLLER_KEY = re.compile(r"(<controllerKey>)(\d+)(?=</)")
_DEVICE = re.compile(r'<VirtualDevice [^<>]*type="(\w+)"[^<>]*><key>(\d+)</key>')
_VERSION = re.compile(r"<version>([^<]*)</version>")
_FAMILIES = {
    "VirtualVmxnet3": "card",
    "VirtualE1000": "card",
    "VirtualE1000e": "card",
    "BootableEthernetDevice": "card",
    "BootableDiskDevice": "VirtualDisk",
    "BootableCdromDevice": "VirtualCdrom",
    "VirtualLsiLogicController": "ParaVirtualSCSIController",
}
"""Devices that stand for each other."""
_NAMESPACES = 'xmlns:soapenv="urn:e" xmlns:xsd="urn:x" xmlns:xsi="urn:i"'
_ENDED = re.compile(r">(success|error)</(?:\w+:)?(?:state|val)>")


@dataclass(frozen=True)
class Call:
    """One request of a recording and what it was answered."""

    verb: str
    path: str
    body: str
    status: int
    answer: str

    @property
    def method(self) -> str:
        found = _METHOD.search(self.body)
        return found[1] if found else ""


@dataclass(frozen=True)
class Command:
    """A command with all that it sent."""

    name: str
    calls: tuple[Call, ...]


def commands(recording: str) -> Iterator[Command]:
    """Yield the commands in the order in which they were run: each begins with a login."""
    found = []
    for part in re.split(r"^##### ", recording, flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("\n")
        begun = re.search(r"<loginTime>([^<]*)<", rest)
        calls = map(_call, re.split(r"^>>> ", rest, flags=re.MULTILINE)[1:])
        found.append((begun[1] if begun else "", Command(name, tuple(_joined(calls)))))
    yield from (one for _, one in sorted(found, key=lambda pair: pair[0]))


def _joined(calls: Iterable[Call]) -> Iterator[Call]:
    """Yield the calls, those that wait on for the same as one with the last answer."""
    held: Call | None = None
    for call in calls:
        if held is not None and call.method in WAITS and held.method == call.method:
            held = replace(held, answer=call.answer)
            continue
        if held is not None:
            yield held
        held = call
    if held is not None:
        yield held


def _call(text: str) -> Call:
    asked, _, answered = text.partition("\n<<< ")
    line, _, asked = asked.partition("\n")
    verb, _, path = line.partition(" ")
    body, answer = (one.partition("\n\n")[2].strip() for one in (asked, answered))
    return Call(verb, path, body, int(answered[:3]), answer)


@dataclass
class Player:
    """Plays the commands of one recording, in order.

    ``words`` says what stands here for names of the recording; ``ids`` grows: what stands for ids.
    """

    client: SoapClient
    words: dict[str, str]
    ids: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    _task: bool = False
    _devices: list[tuple[str, str]] = field(default_factory=list)

    async def play(self, call: Call) -> Reply:
        """Send a request as it would have been sent to this host, and return the answer."""
        if call.path != "/sdk":
            headers = {"cookie": f'vmware_soap_session="{self.client.cookie}"'}
            path = self._said(call.path)
            return await self.client.send(call.verb, path, call.body.encode(), headers)
        body = self._ours(call.body)
        if call.method == "CreateFilter":
            self._task = '<obj type="Task">' in call.body
        if call.method not in WAITS:
            reply = await self.client.post(body.encode())
            self._devices = _DEVICE.findall(reply.text) or self._devices
            self._learn(call.answer, reply.text)
            return reply
        return await self._wait(call, body)

    async def _wait(self, call: Call, body: str) -> Reply:
        """Wait as often as it takes until the task that is waited for has ended."""
        version, reply = "", Reply(500, {}, "")
        for _ in range(TURNS):
            said = _VERSION.sub("", body).replace("<options></options>", "")
            head, end, tail = said.partition("</_this>")
            seconds = TASK_SECONDS if self._task and version else 0
            waited = f"<options><maxWaitSeconds>{seconds}</maxWaitSeconds></options>"
            asked = f"{head}{end}<version>{version}</version>{waited}{tail}"
            reply = await self.client.post(asked.encode())
            self._learn(call.answer, reply.text)
            following = _VERSION.search(reply.text)
            ended = not self._task or _ENDED.search(reply.text)
            if reply.status != OK or ended:
                break
            version = following[1] if following is not None else version
        return reply

    def _said(self, text: str) -> str:
        for theirs, ours in self.words.items():
            text = text.replace(theirs, ours)
        return text

    def _ours(self, body: str) -> str:
        body = _REFERENCE.sub(self._reference, body)
        body = _ROLE.sub(lambda m: m[1] + self._id("role", m[2])[1], body)
        if "ReconfigVM_Task" in body:
            body = _DEVICE_KEY.sub(self._device, body)
            body = _CONTROLLER_KEY.sub(self._controller, body)
        return self._said(body)

    def _reference(self, found: re.Match[str]) -> str:
        kind, value = self._id(found[2], found[3])
        return found[1].replace(f'type="{found[2]}"', f'type="{kind}"') + value

    def _device(self, found: re.Match[str]) -> str:
        """A device that is there already has the key of the first one here that is like it."""
        wanted = {_FAMILIES.get(found[2], found[2])}
        like = (key for kind, key in self._devices if _FAMILIES.get(kind, kind) in wanted)
        return found[1] + next(like, found[3])

    def _controller(self, found: re.Match[str]) -> str:
        """A controller with another number than here is the one for disks."""
        known = {key for _, key in self._devices}
        disks = (key for kind, key in self._devices if kind == "ParaVirtualSCSIController")
        return found[1] + (found[2] if found[2] in known else next(disks, found[2]))

    def _id(self, kind: str, value: str) -> tuple[str, str]:
        return self.ids.get((kind, value), (kind, value))

    def _learn(self, theirs: str, ours: str) -> None:
        then, now = _parsed(theirs), _parsed(ours)
        if then is not None and now is not None:
            self._walk(then, now)

    def _walk(self, then: ET.Element, now: ET.Element) -> None:
        kind = then.get("type")
        here_kind = now.get("type")
        single = then.tag == "returnval" or kind == here_kind
        if kind and here_kind and single and then.text and now.text:
            self.ids[kind, then.text] = (here_kind, now.text)
        elif then.tag == "returnval" and (then.text or "").isdecimal():
            self.ids["role", str(then.text)] = ("role", str(now.text))
        there = {self._mark(one, own=False): one for one in reversed(then)}
        here = {self._mark(one, own=True): one for one in reversed(now)}
        for mark, one in there.items():
            if mark in here:
                self._walk(one, here[mark])

    def _mark(self, one: ET.Element, *, own: bool) -> tuple[str, ...]:
        if one.tag in {"propSet", "changeSet"}:
            return (one.tag, one.findtext("name") or "")
        ref = next((one.find(tag) for tag in ("obj", "object") if one.find(tag) is not None), None)
        if ref is None:
            return (one.tag,)
        kind, value = ref.get("type", ""), ref.text or ""
        for prop in one.iterfind("propSet"):
            if prop.findtext("name") == "name":
                named = prop.findtext("val") or ""
                return (one.tag, kind, "name", named if own else self._said(named))
        return (one.tag, *((kind, value) if own else self._id(kind, value)))


def _parsed(text: str) -> ET.Element | None:
    """Return the body of an answer, its tags and attributes without namespaces."""
    plain = re.sub(r'\sxmlns(:[\w\-]+)?="[^"]*"', "", text)
    plain = re.sub(r'\s[\w\-]+:type="[^"]*"', "", plain)
    plain = re.sub(r"<\?xml[^>]*>", "", plain).replace("NSDECL", "")
    plain = re.sub(r"<(/?)\w+:", r"<\1", plain).replace("<Envelope", f"<Envelope {_NAMESPACES}", 1)
    try:
        return ET.fromstring(plain)
    except ET.ParseError:
        return None
