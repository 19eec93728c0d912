"""Name and address of a host: who may choose them, and that a disk cannot."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
from pathlib import Path

import pytest

from casemate.calls.console import NetworkReply, ReadNetwork, SetNetwork
from casemate.errors import ArgumentError, FormatError, LoginError, NotSupportedError
from casemate.formats.cms import sign_detached
from casemate.formats.hostsettings import FirstSettings, HostNetwork, host_network, write_first
from casemate.image.pki import initialise, load_signer
from casemate.kernel.accounts import Accounts, hash_password
from casemate.kernel.boot.handedover import FIRST
from casemate.kernel.boot.progress import Progress
from casemate.kernel.home import Home
from casemate.kernel.hostnetwork import NAME, keep_network, read_network
from casemate.kernel.networksettings import NetworkSettings
from casemate.kernel.ownmachine import first_secrets, known_network, use_first_settings
from casemate.kernel.store import Store
from casemate.policy.levels import Level
from casemate.policy.signedtext import join_signed

NOW = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
STATIC = host_network("esx1", "192.0.2.2", "255.255.255.0", "192.0.2.1")
PASSWORD = "Wald-und-Wiese7"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("keys"))
    initialise(home.path, now=NOW)
    return home


@pytest.fixture(scope="module")
def chosen() -> FirstSettings:
    return FirstSettings(STATIC, hash_password(PASSWORD))


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what the console shows until the first login."""
    told: list[str] = []
    monkeypatch.setattr(
        "casemate.kernel.ownmachine.add_first_words", lambda _home, *words: told.extend(words)
    )
    return told


@pytest.fixture
def home(tmp_path: Path, keys: Home) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    home.trust.rmdir()
    home.trust.symlink_to(keys.trust)
    return home


def signed(keys: Home, level: Level, body: bytes) -> bytes:
    signer = load_signer(keys.path, level)
    return join_signed(
        body, sign_detached(body, signer.certificate, signer.key, signer.chain, signing_time=NOW)
    )


def handed(home: Home, data: bytes) -> list[dict[str, object]]:
    """Start for the first time with settings; return what was told."""
    (home.state / FIRST).write_bytes(data)
    reading, writing = os.pipe()
    hashed = use_first_settings(home, Progress(writing))
    first_secrets(home, read_network(home), hashed)
    os.close(writing)
    with open(reading, "rb") as stream:  # noqa: PTH123 (a descriptor)
        return [json.loads(line) for line in stream]


def admitted(home: Home, password: str) -> bool:
    store = Store(home.database)
    try:
        accounts = Accounts(store, lambda: 0.0)
        accounts.hooks.admit = lambda _user, _peer: None
        accounts.login("root", password, "test")
    except LoginError:
        return False
    finally:
        store.close()
    return True


def test_settings_that_the_owner_of_the_image_signed_are_used(
    home: Home, keys: Home, chosen: FirstSettings
) -> None:
    (told,) = handed(home, signed(keys, Level.CERTIFIED, write_first(chosen)))
    assert (told["stage"], told["used"]) == ("settings", True)
    assert read_network(home) == STATIC
    assert admitted(home, PASSWORD)
    assert not first_secrets(home, HostNetwork(), hash_password("Another-one-77"))
    assert not admitted(home, "Another-one-77")


@pytest.mark.parametrize("attack", ["unsigned", "changed", "lower", "other", "cut"])
def test_whoever_writes_to_the_disk_chooses_no_password(
    home: Home, keys: Home, chosen: FirstSettings, attack: str, words: list[str]
) -> None:
    body = write_first(chosen)
    good = signed(keys, Level.CERTIFIED, body)
    data = {
        "unsigned": body,
        "changed": good.replace(b"192.0.2.2", b"192.0.2.3"),
        "lower": signed(keys, Level.ACCEPTED, body),
        "other": signed(keys, Level.CERTIFIED, b'{"rules": []}\n'),
        "cut": good[:-40],
    }[attack]
    (told,) = handed(home, data)
    assert told["used"] is False
    assert words == [f"Settings of the installation not used: {told['reason']}"]
    assert read_network(home) == HostNetwork()
    assert not admitted(home, PASSWORD)


def test_a_network_that_cannot_be_read_leads_to_dhcp_and_is_told(
    home: Home, words: list[str]
) -> None:
    (home.state / NAME).write_bytes(b"{}")
    with pytest.raises(FormatError):
        read_network(home)
    assert known_network(home, Progress(-1)) == HostNetwork()
    assert len(words) == 1


def ask(home: Home, request: object, *, own_machine: bool = True) -> object:
    handlers = NetworkSettings(home, own_machine=own_machine).handlers()
    return asyncio.run(handlers[type(request)](request, None))


def test_the_console_keeps_what_the_next_start_uses(home: Home) -> None:
    assert ask(home, ReadNetwork("")) == NetworkReply("casemate", "", "", "")
    ask(home, SetNetwork("", "esx1", "192.0.2.2", "255.255.255.0", "192.0.2.1"))
    assert read_network(home) == STATIC
    with pytest.raises(ArgumentError):
        ask(home, SetNetwork("", "esx1", "192.0.2.2", "255.255.255.0", "192.0.9.1"))
    assert ask(home, ReadNetwork("")) == NetworkReply(
        "esx1", "192.0.2.2", "255.255.255.0", "192.0.2.1"
    )
    ask(home, SetNetwork("", "esx1", "", "", ""))
    assert read_network(home) == HostNetwork("esx1")


@pytest.mark.parametrize("request_", [ReadNetwork(""), SetNetwork("", "esx1", "", "", "")])
def test_a_host_on_an_installed_system_leaves_its_network_alone(
    home: Home, request_: object
) -> None:
    keep_network(home, STATIC)
    with pytest.raises(NotSupportedError):
        ask(home, request_, own_machine=False)
    assert read_network(home) == STATIC
