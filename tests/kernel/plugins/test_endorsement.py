"""The certificate of a TPM's key by a plug-in: for that very key, from its place, or none."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from casemate.errors import HostError
from casemate.formats.tpm import EccKey, parse_public, write_public
from casemate.kernel.endorsement import Endorsement
from casemate.kernel.plugins.process import Tpm
from casemate.kernel.tpm.device import AK_TEMPLATE, Maker
from casemate.testing.ekcerts import authority, ek

INTEL = Maker("INTC", "7.0.0.0")
PLACE = 0x01C00100


class Driver:
    """What a maker's plug-in does: the certificate lies, turned around, in an index of its own."""

    def __init__(self, maker, firmware):
        assert (maker, firmware) == ("INTC", "7.0.0.0")

    def indexes(self):
        return [PLACE]

    def certificate(self, public, contents):
        assert parse_public(public).crypto_key()
        return contents[PLACE][::-1]


class Host:
    """A TPM whose NV indexes hold ``contents``; plug-ins run in this process."""

    def __init__(self, driver=Driver, contents=None):
        self.driver, self.contents, self.uses = driver, contents or {}, 0
        self.vib = "first"

    def tpm(self, maker):
        return ("demo", self.vib) if maker == "INTC" else None

    @contextmanager
    def use(self, _name, told, _files=None):
        self.uses += 1
        service = Tpm(self.driver, dict(told))
        try:
            yield _Session(service)
        except (KeyError, ValueError) as error:
            raise HostError(str(error), code="plugin-failed") from error

    async def with_tpm(self, work):
        return work(self)

    def read_nv(self, index):
        return self.contents.get(index, b"")


class _Session:
    def __init__(self, service):
        self._service = service

    def ask(self, words, data=b""):
        return self._service.answer(words, data)


KEY = ec.generate_private_key(ec.SECP256R1())
MADE = ek(authority("Maker of TPMs"), key=KEY).der
OTHER = ek(authority("Maker of TPMs"), key=ec.generate_private_key(ec.SECP256R1())).der
_POINT = KEY.public_key().public_numbers()
PUBLIC = write_public(
    replace(
        AK_TEMPLATE,
        key=EccKey("p256", None, _POINT.x.to_bytes(32, "big"), _POINT.y.to_bytes(32, "big")),
    )
)


def test_the_certificate_of_the_key_is_found_where_its_maker_put_it_and_asked_for_once():
    host = Host(contents={PLACE: MADE[::-1]})
    finder = Endorsement(host, host)
    for _ in range(3):
        assert asyncio.run(finder.find(INTEL, PUBLIC)) == MADE
    assert host.uses == 2
    host.vib = "second"
    assert asyncio.run(finder.find(INTEL, PUBLIC)) == MADE
    assert host.uses == 4


def test_a_tpm_whose_maker_nobody_knows_has_none():
    host = Host(contents={PLACE: MADE[::-1]})
    assert asyncio.run(Endorsement(host, host).find(Maker("IFX", "1"), PUBLIC)) == b""
    assert host.uses == 0


def _wanting(indexes):
    return type("Wanting", (Driver,), {"indexes": lambda _self: indexes})


BAD = {
    "the certificate of another key": (Driver, {PLACE: OTHER[::-1]}),
    "what is no certificate": (Driver, {PLACE: b"text"}),
    "an index of somebody else": (_wanting([0x01800001]), {0x01800001: b"secret"}),
    "too many indexes": (_wanting([PLACE] * 17), {}),
    "no numbers": (_wanting(["x"]), {}),
}


@pytest.mark.parametrize("name", BAD)
def test_nothing_is_taken_from_a_plug_in_that_brings_or_wants(name):
    driver, contents = BAD[name]
    host = Host(driver, contents)
    finder = Endorsement(host, host)
    for _ in range(2):
        assert asyncio.run(finder.find(INTEL, PUBLIC)) == b""
    assert host.uses <= 2
