"""Plug-ins of VIBs: what is verified runs, in a process of its own; nothing else is imported."""

from __future__ import annotations

import asyncio
import hashlib
import marshal
import os
import py_compile
import subprocess
import sys
import threading
from contextlib import contextmanager, nullcontext
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM, socketpair
from types import SimpleNamespace

import pytest

from casemate.calls import modules as m
from casemate.errors import ArgumentError, CasemateError, FormatError, HostError, SignatureError
from casemate.kernel.foreigndisks import ForeignDisks
from casemate.kernel.loading import Gate, Loading
from casemate.kernel.plugins import runner
from casemate.kernel.plugins.code import MAX_FILES, PLACE, read_plugin
from casemate.kernel.plugins.registry import Plugins
from casemate.kernel.store import Store
from casemate.kernel.sys import spawn
from casemate.kernel.uplinks import open_uplink
from casemate.policy.levels import Level
from casemate.testing.elves import Elf
from casemate.testing.vibs import make_descriptor

EXAMPLE = Path(__file__).parents[3] / "docs/examples/vhd/root"
MANIFEST = 'name = "{name}"\nkind = "{kind}"\ninterface = {interface}\nentry = "driver:Entry"\n'
GOOD = """
class Entry:
    def __init__(self, read, size):
        self.capacity = size
        self.read = read
"""


class Host:
    """A visor root in a directory; plug-ins run in real processes, without their walls."""

    def __init__(self, place: Path) -> None:
        self.root = place / "root"
        self.root.mkdir()
        self.store = Store(place / "store")
        self.files: list[str] = []
        self.others: list[str] = []
        self.level = "partner"
        self.refusal: Exception | None = None
        self.changed: Exception | None = None
        gate = Gate(self._judge, self._confirm, lambda _: None)
        self.plugins = Plugins(lambda: self.root, self._vibs, gate, lambda: (), uplink=self._uplink)
        self.loading = Loading([self.plugins], self.store)

    @contextmanager
    def _uplink(self, name, options):
        """Give two pairs of sockets in the place of an interface and of a wire."""
        self.asked = (name, options)
        self.frames, frames = socketpair(AF_UNIX, SOCK_DGRAM)
        self.wire, wire = socketpair(AF_UNIX, SOCK_DGRAM)
        for end in (self.frames, self.wire):
            end.settimeout(60)
        with frames, wire:
            yield {"frames": frames.fileno(), "wire": wire.fileno()}

    def _vibs(self):
        mine = make_descriptor(self.level, files=tuple(self.files))
        other = make_descriptor(name="other", files=tuple(self.others))
        return [
            SimpleNamespace(descriptor=one, files={"demo": "demo.v00"}) for one in (mine, other)
        ]

    def _judge(self, vib):
        if self.refusal:
            raise self.refusal
        level = Level(vib.descriptor.acceptance_level)
        return SimpleNamespace(level=level, signer="CN=ACME", signer_certificate_der=b"der")

    def _confirm(self, _names):
        if self.changed:
            raise self.changed

    def put(self, path: str, data: bytes | str, *, plugin: str = "demo", listed: bool = True):
        place = self.root / PLACE / plugin / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data.encode() if isinstance(data, str) else data)
        if listed and (name := f"{PLACE}{plugin}/{path}") not in self.files:
            self.files.append(name)

    def demo(self, code: str | None = GOOD, *, kind="storage", interface=1, more=""):
        self.put("plugin.toml", MANIFEST.format(name="demo", kind=kind, interface=interface) + more)
        if code is not None:
            self.put("driver.py", code)

    async def ask(self, request):
        return await self.loading.handlers()[type(request)](request, None)

    def load(self, name: str = "demo"):
        self.plugins.load(name, {})

    def row(self, name: str = "demo") -> m.Module:
        (row,) = self.plugins.describe([name], {})
        return row


@pytest.fixture
def host(tmp_path, monkeypatch):
    def start(plan, program, *, prepare):
        del prepare
        assert plan.name == "plugin"
        order = program.argv[-1]
        argv = (sys.executable, "-I", "-B", "-m", "casemate.kernel.plugins.process", order)
        return spawn.spawn(spawn.Program(argv, {}, program.fds))

    monkeypatch.setattr(runner.confine, "start", start)
    made = Host(tmp_path)
    yield made
    made.store.close()


def test_a_vendors_example_reads_a_disk_that_qemu_wrote(host, tmp_path):
    for path in (EXAMPLE / PLACE / "vhd").iterdir():
        host.put(path.name, path.read_bytes(), plugin="vhd")
    content = os.urandom(3 << 20) + bytes(5 << 20) + b"end".ljust(1 << 20, b"\0")
    (tmp_path / "raw").write_bytes(content)
    for kind in ("dynamic", "fixed"):
        image = tmp_path / f"{kind}.vhd"
        options = f"subformat={kind},force_size=on"
        words = ["qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", options]
        subprocess.run([*words, tmp_path / "raw", image], check=True)
        disks = ForeignDisks(host.plugins)
        assert disks.reads("a.vhd") is (kind == "fixed")
        host.load("vhd")
        with image.open("rb") as file, disks.open(f"a/{image.name}", file.fileno()) as disk:
            assert disk.capacity == len(content)
            read = bytearray(disk.capacity)
            for offset, data in disk.pieces():
                read[offset : offset + len(data)] = data
        assert bytes(read) == content


def test_what_is_shown_of_a_plug_in_is_its_kind_signer_digest_level_and_vib(host):
    host.demo()
    lines = "".join(
        f"{hashlib.sha256((host.root / path).read_bytes()).hexdigest()}  {path}\n"
        for path in sorted(host.files)
    )
    assert not host.row().loaded
    host.load()
    row = host.row()
    assert (row.loaded, row.enabled, row.kind) == (True, True, "storage plug-in")
    assert (row.vib, row.level, row.issuer) == ("demo", "PartnerSupported", "CN=ACME")
    assert (row.status, row.provides) == ("Signed", ("storage-1",))
    assert row.digest == hashlib.sha256(lines.encode()).hexdigest()
    assert row.fingerprint == hashlib.sha256(b"der").hexdigest()


REVOKED = SignatureError("VIB demo is revoked: key lost", code="vib-revoked")
REFUSED = {
    "revoked": (lambda h: setattr(h, "refusal", REVOKED), "vib-revoked"),
    "of a changed layer": (
        lambda h: setattr(h, "changed", CasemateError("no", code="layer-changed")),
        "layer-changed",
    ),
    "of a community VIB": (lambda h: setattr(h, "level", "community"), "level-too-low"),
    "partly another VIB's": (lambda h: h.others.append(h.files[-1]), "file-conflict"),
    "for another interface": (lambda h: h.demo(interface=2), "plugin-interface"),
    "without code": (
        lambda h: h.files.remove(f"{PLACE}demo/driver.py"),
        "plugin-files",
    ),
    "under another's name": (
        lambda h: h.put("plugin.toml", MANIFEST.format(name="x", kind="tpm", interface=1)),
        "plugin-files",
    ),
    "twice the same module": (lambda h: h.put("driver.pyc", b""), "plugin-files"),
    "in the place of the standard library": (lambda h: h.put("json.py", ""), "plugin-files"),
    "in the place of the kernel": (lambda h: h.put("casemate.py", ""), "plugin-files"),
    "of too many files": (
        lambda h: [h.put(f"f{n}.py", "") for n in range(MAX_FILES)],
        "plugin-files",
    ),
    "ELF that cannot be read": (lambda h: h.put("data.bin", b"\x7fELF"), "elf-"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_process_is_started_for_a_plug_in_that_is(host, name, monkeypatch):
    change, code = REFUSED[name]
    host.demo()
    change(host)
    monkeypatch.setattr(runner.confine, "start", None)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(CasemateError) as caught:
        host.load()
    assert caught.value.code.startswith(code)
    reason = caught.value.reason
    del caught
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    row = host.row()
    assert not row.loaded
    # A digest of all layers is only asked for where something runs.
    assert name == "of a changed layer" or row.status == f"Refused: {reason}"


def test_a_weak_program_is_refused_by_the_rule_that_it_breaks(host):
    host.demo()
    host.put("weak.so", Elf(stack=7).build())
    with pytest.raises(CasemateError) as caught:
        host.load()
    assert caught.value.code == "hardening-nx-stack"
    assert caught.value.component.endswith("weak.so")


def test_files_that_no_vib_lists_links_and_foreign_modules_are_not_imported(host, tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('evil')")
    host.put("stray.py", "", listed=False)
    for name in ("stray", "cryptography", "casemate.kernel.start", "evil"):
        host.files.clear()
        prefix = f"import sys\nsys.path.append({str(tmp_path)!r})\nimport {name}\n"
        host.demo(prefix + GOOD)
        with pytest.raises(HostError, match=f"brings the module {name.partition('.')[0]}"):
            host.load()
    host.put("link.py", "")
    (host.root / PLACE / "demo/link.py").unlink()
    (host.root / PLACE / "demo/link.py").symlink_to(tmp_path / "evil.py")
    with pytest.raises(HostError) as caught:
        host.load()
    assert caught.value.code == "host-eloop"


def test_source_packages_bytecode_and_elf_are_imported(host, tmp_path):
    (tmp_path / "fast.py").write_text("ANSWER = 42\n")
    py_compile.compile(str(tmp_path / "fast.py"), str(tmp_path / "fast.pyc"), doraise=True)
    host.put("fast.pyc", (tmp_path / "fast.pyc").read_bytes())
    host.put("pack/__init__.py", "from pack.part import WORD\n")
    host.put("pack/part.py", "WORD = 'word'\n")
    check = "import fast, pack\nassert (fast.ANSWER, pack.WORD) == (42, 'word')\n"
    host.demo(check + GOOD)
    host.load()
    assert host.row().loaded


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\0" * 32, "bytecode of another Python"),
        (MAGIC_NUMBER + bytes(12) + marshal.dumps(1), "holds no code"),
    ],
)
def test_bytecode_that_is_none_is_refused(host, data, why):
    host.demo(None)
    host.put("driver.pyc", data)
    with pytest.raises(HostError, match=why):
        host.load()


FAILING = {
    "raises": "raise ValueError('broken')",
    "ends": "import os; os._exit(3)",
    "lacks its entry": "Other = 1",
}


@pytest.mark.parametrize("name", FAILING)
def test_a_plug_in_fails_alone_that(host, name):
    host.demo(FAILING[name])
    with pytest.raises(HostError) as caught:
        host.load()
    assert caught.value.code == "plugin-failed"
    assert not host.row().loaded


def _pieces(host, source):
    with ForeignDisks(host.plugins).open("x.demo", source) as disk:
        yield from disk.pieces()


LYING = {
    "no size": "self.capacity = 0",
    "half a sector": "self.capacity = 700",
    "too much": "self.capacity = 1 << 60",
    "too short": "self.capacity, self.read = 512, lambda *_: b'x'",
    "too long": "self.capacity, self.read = 512, lambda *_: bytes(9999)",
    "no bytes": "self.capacity, self.read = 512, lambda *_: 'text'",
    "a flood": "self.capacity, self.read = 512, lambda *_: bytes(5 << 20)",
    "noise": "import os; os.write(3, b'{' * 999); self.capacity = 512",
}


@pytest.mark.parametrize("name", LYING)
def test_what_a_plug_in_says_of_a_disk_is_not_believed_when_it_says(host, name, tmp_path):
    host.demo(
        f"class Entry:\n    def __init__(self, read, size):\n        {LYING[name]}\n",
        more='suffixes = ["demo"]\n',
    )
    host.load()
    (tmp_path / "x.demo").write_bytes(b"x")
    with (tmp_path / "x.demo").open("rb") as file, pytest.raises((HostError, FormatError)):
        list(_pieces(host, file.fileno()))


def test_one_that_does_not_answer_is_ended(host, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "ANSWER_SECONDS", 60.0)
    host.demo(
        "import time\nclass Entry:\n    def __init__(self, *_):\n        time.sleep(99)\n",
        more='suffixes = ["demo"]\n',
    )
    host.load()
    monkeypatch.setattr(runner, "ANSWER_SECONDS", 1.0)
    (tmp_path / "x.demo").write_bytes(b"x")
    with (tmp_path / "x.demo").open("rb") as file, pytest.raises(HostError, match="within"):
        list(_pieces(host, file.fileno()))


def test_a_plug_in_whose_vib_was_revoked_or_removed_since_serves_no_more(host):
    host.demo(more='suffixes = ["demo"]\n')
    host.load()
    disks = ForeignDisks(host.plugins)
    assert disks.reads("x.DEMO")
    host.refusal = REVOKED
    with pytest.raises(SignatureError, match="key lost"), disks.open("x.demo", 0):
        pass
    host.refusal = None
    host.files.clear()
    assert not disks.reads("x.demo")


TUNNEL = """
class Entry:
    def __init__(self, options):
        self.mark = options["mark"].encode()

    def pack(self, frame):
        return b"" if frame.startswith(b"drop") else self.mark + frame

    def unpack(self, datagram):
        if not datagram.startswith(self.mark):
            raise ValueError("not of the peer")
        return datagram[len(self.mark) :]
"""
FRAME = b"\xff" * 6 + b"\x02" * 6 + b"\x08\x00" + b"content"


@pytest.fixture
def tunnel(host):
    host.demo(TUNNEL, kind="network")
    host.plugins.load("demo", {"demo": {"options": "peer=192.0.2.7:4789 mark=M1"}})
    yield host
    for name in host.plugins.uplinks():
        host.plugins._let_go(name)
    host.frames.close()
    host.wire.close()


def test_a_network_plug_in_carries_frames_both_ways_and_drops_what_it_does_not_know(tunnel):
    assert tunnel.asked == ("demo", {"peer": "192.0.2.7:4789", "mark": "M1"})
    assert tunnel.plugins.uplinks() == {"demo"}
    assert (tunnel.row().loaded, tunnel.row().kind) == (True, "network plug-in")
    tunnel.frames.send(b"drop" + FRAME)
    tunnel.frames.send(FRAME)
    assert tunnel.wire.recv(2000) == b"M1" + FRAME
    for strange in (b"M2" + FRAME, b"M1short"):
        tunnel.wire.send(strange)
    tunnel.wire.send(b"M1" + FRAME[::-1])
    assert tunnel.frames.recv(2000) == FRAME[::-1]
    tunnel.plugins.check()
    assert tunnel.plugins.uplinks() == {"demo"}


ENDINGS = {
    "its VIB is revoked": lambda h: setattr(h, "refusal", REVOKED),
    "its VIB is removed": lambda h: h.files.clear(),
    "its process ends": lambda h: spawn.kill(h.plugins._lasting["demo"]._child.pidfd),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_network_plug_in_carries_nothing_more_when(tunnel, name):
    pidfd = os.dup(tunnel.plugins._lasting["demo"]._child.pidfd)
    ENDINGS[name](tunnel)
    if name == "its process ends":
        assert spawn.wait_gone(pidfd, 10)
    tunnel.plugins.check()
    assert tunnel.plugins.uplinks() == frozenset()
    assert spawn.wait_gone(pidfd, 0)
    os.close(pidfd)
    tunnel.refusal = None
    assert not tunnel.files or not tunnel.row().loaded


def test_a_network_plug_in_that_is_loaded_twice_at_once_has_one_process(host):
    started, over = [], []

    class Slow:
        def __init__(self, *_):
            started.append(self)
            # Long enough for the other load to come by, were it let in.
            waiting.wait(0.2)

        def __exit__(self, *_):
            over.append(self)

    waiting = threading.Event()
    host.plugins._start = Slow
    host.plugins._uplink = lambda *_: nullcontext({})
    host.demo(TUNNEL, kind="network")
    threads = [threading.Thread(target=host.load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(started) == 2
    assert started[:1] == over
    host.plugins._let_go("demo")
    assert over == started


def test_a_network_plug_in_that_does_not_take_its_options_leaves_no_interface(host):
    host.demo(TUNNEL, kind="network")
    with pytest.raises(HostError, match="KeyError: 'mark'"):
        host.load()
    assert host.plugins.uplinks() == frozenset()
    with pytest.raises(ConnectionError):
        host.frames.send(FRAME)
    host.frames.close()
    host.wire.close()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"peer": "192.0.2.7"},
        {"peer": "example.test:4789"},
        {"peer": "999.0.2.7:4789"},
        {"peer": "192.0.2.7:70000"},
        {"peer": "192.0.2.7:4789", "local": "0"},
    ],
)
def test_a_peer_is_an_address_and_a_port(options):
    with pytest.raises(ArgumentError), open_uplink("demo", options, lambda _: -1):
        pass


@pytest.mark.parametrize("name", ["lo", "vs0v0", "up1v20", "t1", "d3", "cm-1", "x" * 16])
def test_no_plug_in_takes_the_name_of_an_interface_that_switches_have(name):
    with pytest.raises(ArgumentError), open_uplink(name, {"peer": "192.0.2.7:4789"}, lambda _: -1):
        pass


async def _settings(host):
    await host.ask(m.ModuleSet("", "demo", enabled=False))
    await host.loading.load_enabled()
    assert not (await host.ask(m.ModuleList())).modules[0].loaded
    await host.ask(m.ModuleSet("", "demo", enabled=True))
    await host.loading.load_enabled()
    assert (await host.ask(m.ModuleList(name="demo"))).modules[0].loaded


def test_what_is_not_disabled_is_loaded_at_every_start(host):
    host.demo()
    asyncio.run(_settings(host))


def test_a_file_changed_after_it_was_read_is_not_what_runs(host):
    host.demo()
    code = read_plugin(host.root, "demo", host.files, Level.PARTNER)
    (host.root / PLACE / "demo/driver.py").write_text("raise ValueError('swapped')")
    with code, runner.Running(code, host.root, {}, {}):
        pass


def test_the_example_of_a_tunnel_speaks_vxlan(host):
    example = Path(__file__).parents[3] / "docs/examples/vxlan/root" / PLACE / "vxlan"
    for path in example.iterdir():
        host.put(path.name, path.read_bytes(), plugin="vxlan")
    with pytest.raises(HostError, match="24 bits"):
        host.plugins.load("vxlan", {"vxlan": {"options": f"vni={1 << 24}"}})
    host.frames.close()
    host.wire.close()
    host.plugins.load("vxlan", {"vxlan": {"options": "vni=42"}})
    host.frames.send(FRAME)
    assert host.wire.recv(2000) == bytes.fromhex("0800000000002a00") + FRAME
    host.wire.send(bytes.fromhex("0800000000002b00") + FRAME)
    host.wire.send(bytes.fromhex("0800000000002a00") + FRAME[::-1])
    assert host.frames.recv(2000) == FRAME[::-1]
    host.plugins._let_go("vxlan")
    host.frames.close()
    host.wire.close()
