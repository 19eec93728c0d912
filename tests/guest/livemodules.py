"""Real Linux modules, as VIBs of an outside vendor, on a machine whose Linux checks signatures."""

from __future__ import annotations

import datetime as dt
import re
from html import unescape
from http.client import HTTPSConnection
from pathlib import Path
from ssl import SSLContext

from cryptography.hazmat.primitives.serialization import Encoding
from pyVmomi import vim
from tests.guest.conftest import Trial

from casemate.formats.cms import sign_bare
from casemate.formats.kmod import join_module, split_module
from casemate.image.debian import Packages
from casemate.image.linux import Kernel
from casemate.image.pki import load_signer
from casemate.image.vibbuild import build_vib, sign_with_key
from casemate.policy.levels import Level
from casemate.testing.pki import issue

PLACE = "usr/lib/vmware/vmkmod"
RECIPE = """
name = "{name}"
version = "{version}"
vendor = "ACM"
summary = "Network driver for ACME cards"
level = "partner"
release-date = 2026-06-01T00:00:00Z
live-install = true
live-remove = true
"""
ENVELOPE = (
    '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>{}'
    "</soapenv:Body></soapenv:Envelope>"
)


class Vendor:
    """Packs modules of Debian's kernel that the image lacks: as they are, and signed by others."""

    def __init__(self, trial: Trial, scratch: Path) -> None:
        self._home, self._scratch = trial.built.home, scratch
        self._kernel = Kernel(Packages())

    def vib(self, name: str, version: str, module: str, *, stranger: bool = False) -> bytes:
        """Return a VIB with one module, signed by the key of a partner."""
        found = self._kernel.module(module)
        assert found is not None
        data = found.data
        if stranger:
            other = issue("Stranger")
            content = bytes(split_module(data).content)
            data = join_module(content, sign_bare(content, other.certificate, other.key))
        root = self._scratch / f"{name}-{version}"
        (root / PLACE).mkdir(parents=True)
        (root / PLACE / f"{module}.ko").write_bytes(data)
        recipe = RECIPE.format(name=name, version=version).encode()
        built = build_vib(root, recipe, released=None, scratch=self._scratch)
        signer = load_signer(self._home, Level.PARTNER)
        chain = (signer.certificate, *signer.chain)
        pem = b"".join(one.public_bytes(Encoding.PEM) for one in chain)
        return sign_with_key(built, pem, signer.key, now=dt.datetime.now(dt.UTC))


class Host:
    """What a client does with a machine over its API."""

    def __init__(self, trial: Trial, api: vim.ServiceInstance, context: SSLContext) -> None:
        self._port, self._context = trial.machine.hardware.port, context
        self._cookie = api._stub.cookie
        (compute,) = api.content.rootFolder.childEntity[0].hostFolder.childEntity
        self.system = compute.host[0].configManager.kernelModuleSystem

    def upload(self, name: str, content: bytes) -> None:
        place = f"/folder/{name}?dcPath=ha-datacenter&dsName=datastore1"
        status, said = self._send("PUT", place, content, {"Cookie": self._cookie})
        assert status in {200, 201}, said

    def esxcli(self, command: str, **values: str) -> str:
        """Run a command over the API; return its answer, or its error, as text."""
        *path, _ = words = command.split()
        arguments = "".join(
            f"<argument><name>{name}</name><val>&lt;{name}&gt;{value}&lt;/{name}&gt;</val>"
            "</argument>"
            for name, value in values.items()
        )
        body = (
            '<ExecuteSoap xmlns="urn:vim25"><_this type="ReflectManagedMethodExecuter">'
            f"ha-managed-method-executer</_this><moid>ha-cli-handler-{'-'.join(path)}</moid>"
            f"<version>urn:vim25/5.0</version><method>vim.EsxCLI.{'.'.join(words)}</method>"
            f"{arguments}</ExecuteSoap>"
        )
        headers = {
            "Content-Type": "text/xml",
            "SOAPAction": '"urn:vim25/8.0.3.0"',
            "Cookie": self._cookie,
        }
        status, reply = self._send("POST", "/sdk", ENVELOPE.format(body).encode(), headers)
        assert status == 200, reply
        return unescape(reply)

    def install(self, name: str, vib: bytes) -> str:
        self.upload(name, vib)
        return self.esxcli("software vib install", viburl=f"[datastore1] {name}")

    def loaded(self) -> dict[str, bool]:
        """Return the modules and plug-ins, and whether they are loaded."""
        return {one.name: one.loaded for one in self.system.QueryModules()}

    def _send(
        self, method: str, place: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, str]:
        connection = HTTPSConnection("localhost", self._port, context=self._context, timeout=300)
        try:
            connection.request(method, place, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        finally:
            connection.close()


def check_modules(host: Host, vendor: Vendor) -> None:
    """A module goes from a vendor into Linux, and one that a stranger signed does not."""
    said = host.install("dummy.vib", vendor.vib("acme-net", "1.0.0-1", "dummy"))
    assert "<RebootRequired>false</RebootRequired>" in said, said
    host.system.UpdateModuleOptionString("dummy", "numdummies=2")
    assert "errMsg" not in (said := host.esxcli("system module load", module="dummy")), said
    said = host.esxcli("system module get", module="dummy")
    assert "<SignedStatus>Signed</SignedStatus>" in said
    assert "CN=Build time autogenerated kernel key" in said
    assert re.search(r"<VIBAcceptanceLevel>PartnerSupported</VIBAcceptanceLevel>", said)

    evil = vendor.vib("acme-evil", "1.0.0-1", "ifb", stranger=True)
    assert "<RebootRequired>false</RebootRequired>" in host.install("evil.vib", evil)
    said = host.esxcli("system module load", module="ifb")
    assert "is signed by none of the 1 keys of this kernel" in said
    loaded = host.loaded()
    assert (loaded["dummy"], loaded["ifb"]) == (True, False)

    said = host.install("newer.vib", vendor.vib("acme-net", "1.1.0-1", "dummy"))
    assert "acme-net_1.0.0-1" in said
    assert "acme-net_1.1.0-1" in said
    assert "<FileVersion>1.1.0-1</FileVersion>" in host.esxcli("system module get", module="dummy")
    for name in ("acme-net", "acme-evil"):
        said = host.esxcli("software vib remove", vibname=name)
        assert "<RebootRequired>false</RebootRequired>" in said, said
    assert not {"dummy", "ifb"} & host.loaded().keys()
