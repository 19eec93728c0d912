"""Plug-ins of VIBs: what is verified runs, in a process of its own; nothing else is imported."""

from __future__ import annotations

import asyncio
import hashlib
import marshal
import os
import py_compile
import subprocess
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from types import SimpleNamespace

import pytest

from casemate.calls import modules as m
from casemate.errors import CasemateError, FormatError, HostError, SignatureError
from casemate.kernel.foreigndisks import ForeignDisks
from casemate.kernel.loading import Gate, Loading
from casemate.kernel.plugins import runner
from casemate.kernel.plugins.code import MAX_FILES, PLACE, read_plugin
from casemate.kernel.plugins.registry import Plugins
from casemate.kernel.store import Store
from casemate.kernel.sys import spawn
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
        self.plugins = Plugins(lambda: self.root, self._vibs, gate, lambda: ())
        self.loading = Loading([self.plugins], self.store)

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
    "of a kind without interface": (lambda h: h.demo(kind="network"), "plugin-interface"),
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
    assert len(list(Path("/proc/self/fd").iterdir())) == before
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
    monkeypatch.setattr(runner, "ANSWER_SECONDS", 5.0)
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
    with code, runner.Running(code, host.root, {}):
        pass
