"""Linux modules of VIBs: from a verified layer, signed by a trusted key, and in no other way."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from casemate.calls import modules as m
from casemate.errors import CasemateError, HostError, SignatureError
from casemate.formats.cms import sign_bare
from casemate.formats.kmod import join_module
from casemate.kernel.loading import Gate, Loading
from casemate.kernel.modules import Linux, Modules
from casemate.kernel.store import Store
from casemate.kernel.sys.memfd import is_sealed
from casemate.testing.linuxmodules import relocatable
from casemate.testing.pki import issue
from casemate.testing.vibs import make_descriptor

KEY = issue("Module key")
STRANGER = issue("Stranger")


def _elf(info: str) -> bytes:
    return relocatable(b"".join(line.encode() + b"\0" for line in info.splitlines()))


def module(name: str, depends: str = "", signer=KEY) -> bytes:
    data = _elf(
        f"name={name}\nlicense=GPL\nversion=2.1\ndepends={depends}\n"
        "parmtype=debug:int\nparm=debug:Say more\n"
    )
    if signer is None:
        return data
    return join_module(data, sign_bare(data, signer.certificate, signer.key))


class Host:
    """A visor root in a directory, and a Linux that keeps what it was given."""

    def __init__(self, place):
        self.root = place / "root"
        self.proc = place / "proc"
        self.trust = place / "trust"
        (self.trust / "modules").mkdir(parents=True)
        self.proc.mkdir()
        (self.proc / "modules").write_text("virtio 100 0 - Live 0x0\n")
        self.files = []
        self.taken = []
        self.store = Store(place / "store")
        self.refusal = None
        self.measured = []
        gate = Gate(self._judge, lambda _: None, self.measured.append)
        self.linux_modules = Modules(
            lambda: self.root, self._vibs, self.trust, gate, Linux(self.proc, self._take)
        )
        self.modules = Loading([self.linux_modules], self.store)

    def _vibs(self):
        return [
            SimpleNamespace(
                descriptor=make_descriptor(files=tuple(self.files)), files={"p": "demo.v00"}
            )
        ]

    def _judge(self, _vib):
        if self.refusal:
            raise self.refusal

    def _take(self, sealed, name, options):
        assert is_sealed(sealed)
        self.taken.append((name, options, os.pread(sealed, 1 << 20, 0)))
        os.close(sealed)
        return True

    def trust_key(self, identity=KEY):
        (self.trust / "modules" / "key.pem").write_bytes(identity.pem)

    def put(self, name, data, *, listed=True, place="usr/lib/vmware/vmkmod"):
        path = self.root / place / f"{name}.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if listed:
            self.files.append(f"{place}/{name}.ko")

    def ask(self, request):
        return asyncio.run(self.modules.handlers()[type(request)](request, None))

    def load(self, name):
        self.ask(m.ModuleLoad("", name))
        return [name for name, _, _ in self.taken]


@pytest.fixture
def host(tmp_path):
    made = Host(tmp_path)
    yield made
    made.store.close()


def test_a_module_goes_to_linux_sealed_with_what_it_needs_before_it_and_its_options(host):
    host.trust_key()
    host.put("acme-net", module("acme_net", "acme_core,virtio"))
    host.put("acme_core", module("acme_core"))
    host.ask(m.ModuleSet("", "acme_net", options="debug=1 rings=4"))
    assert host.load("acme-net") == ["acme_core", "acme_net"]
    assert host.measured == [KEY.certificate] * 2
    assert host.taken[1][1:] == ("debug=1 rings=4", module("acme_net", "acme_core,virtio"))


ATTACKS = {
    "unsigned": (lambda: module("evil", signer=None), "signature-missing"),
    "signed by a stranger": (lambda: module("evil", signer=STRANGER), "signer-untrusted"),
    "changed after signing": (
        lambda: module("evil").replace(b"license=GPL", b"license=XXX"),
        "signature-invalid",
    ),
    "signed, and no module": (
        lambda: join_module(b"text", sign_bare(b"text", KEY.certificate, KEY.key)),
        "module-malformed",
    ),
    "text": (lambda: b"text", "signature-missing"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_linux_never_sees_a_module_that_is(host, name):
    make, code = ATTACKS[name]
    host.trust_key()
    host.put("evil", make())
    with pytest.raises(CasemateError) as caught:
        host.load("evil")
    assert caught.value.code == code
    assert host.taken == []
    (shown,) = host.ask(m.ModuleList(name="evil")).modules
    assert shown.status.startswith("Refused")


def test_linux_never_sees_a_module_that_needs_a_bad_one(host):
    host.trust_key()
    host.put("good", module("good", "bad"))
    host.put("bad", module("bad", signer=STRANGER))
    with pytest.raises(CasemateError) as caught:
        host.load("good")
    assert (caught.value.code, caught.value.component) == ("signer-untrusted", "bad")
    assert host.taken == []


def test_linux_never_sees_a_module_whose_vib_was_revoked_and_says_so_in_the_same_words(host):
    host.trust_key()
    host.put("good", module("good"))
    host.refusal = SignatureError("VIB demo is revoked: key lost", code="vib-revoked")
    with pytest.raises(SignatureError, match="key lost"):
        host.load("good")
    assert host.taken == []
    (shown,) = host.ask(m.ModuleList(name="good")).modules
    assert shown.status == "Refused: VIB demo is revoked: key lost"


def test_modules_that_need_each_other_end(host):
    host.trust_key()
    host.put("one", module("one", "two"))
    host.put("two", module("two", "one"))
    with pytest.raises(CasemateError) as caught:
        host.load("one")
    assert caught.value.code == "module-depth"
    assert host.taken == []


def test_a_file_that_no_vib_brings_and_a_link_are_no_modules(host, tmp_path):
    host.trust_key()
    host.put("stray", module("stray"), listed=False)
    (tmp_path / "elsewhere.ko").write_bytes(module("link"))
    host.put("link", b"")
    path = host.root / "usr/lib/vmware/vmkmod/link.ko"
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere.ko")
    for name, why in (("stray", "no module"), ("../../evil", "no module"), ("link", "cannot be")):
        with pytest.raises(CasemateError) as caught:
            host.load(name)
        assert why in caught.value.reason
    assert host.taken == []


def test_without_a_trusted_key_nothing_is_loaded(host):
    host.put("good", module("good"))
    with pytest.raises(CasemateError) as caught:
        host.load("good")
    assert caught.value.code == "no-module-keys"


@pytest.mark.parametrize("why", ["built without", "switched off"])
def test_a_linux_that_loads_no_modules_is_told_as_the_reason(host, why):
    host.trust_key()
    host.put("good", module("good"))
    if why == "built without":
        (host.proc / "modules").unlink()
    else:
        (host.proc / "sys/kernel").mkdir(parents=True)
        (host.proc / "sys/kernel/modules_disabled").write_text("1\n")
    with pytest.raises(CasemateError) as caught:
        host.load("good")
    assert caught.value.code == "modules-unsupported"
    assert why in caught.value.reason
    assert host.ask(m.ModuleList()).refusal == caught.value.reason
    assert host.taken == []


@pytest.mark.parametrize("text", ["debug", "a=\nb=1", "a=1\0", "=1", "a=" + "1" * 2000])
def test_options_that_are_none_are_refused(host, text):
    host.put("good", module("good"))
    with pytest.raises(CasemateError) as caught:
        host.ask(m.ModuleSet("", "good", options=text))
    assert caught.value.code == "argument"


def test_what_is_known_of_a_module_is_shown(host):
    host.trust_key()
    host.put("good", module("good"))
    (host.proc / "modules").write_text("good 100 0 - Live 0x0\n")
    (one,) = host.ask(m.ModuleList()).modules
    assert (one.loaded, one.enabled, one.license, one.version) == (True, False, "GPL", "2.1")
    assert (one.vib, one.level, one.status) == ("demo", "PartnerSupported", "Signed")
    assert one.issuer == "CN=Module key,O=Casemate tests"
    assert one.digest == hashlib.sha256(module("good")).hexdigest()
    assert one.parameters == (("debug", "int", "Say more"),)


def test_what_is_enabled_is_loaded_at_every_start_and_a_failure_stops_nothing(host):
    host.trust_key()
    for name in ("one", "two"):
        host.put(name, module(name))
        host.ask(m.ModuleSet("", name, enabled=True))
    host.put("three", module("three"))
    (host.root / "usr/lib/vmware/vmkmod/one.ko").write_bytes(module("one", signer=STRANGER))
    asyncio.run(host.modules.load_enabled())
    assert [name for name, _, _ in host.taken] == ["two"]


def test_a_linux_that_refuses_is_told_and_everything_is_closed(host):
    host.trust_key()
    host.put("good", module("good"))

    def refuse(sealed, name, _options):
        os.close(sealed)
        raise HostError("Key was rejected by service", component=name)

    host.linux_modules._linux = Linux(host.proc, refuse)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(HostError):
        host.load("good")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
