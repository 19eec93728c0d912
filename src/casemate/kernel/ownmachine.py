"""The first program inside the visor root of a machine that boots by itself.

    casemate-python -I -B -m casemate.kernel.ownmachine SETTINGS

It does what the command line does on an installed Linux: loads the drivers (from layers that were
verified), sets up the network, makes the first account and the certificate where there are none,
opens the API's socket; then it becomes init.
"""

from __future__ import annotations

import datetime as dt
import os
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

from casemate.errors import CasemateError
from casemate.formats.hostsettings import HostNetwork
from casemate.kernel.apisocket import listen
from casemate.kernel.boot.drivers import Drivers, present
from casemate.kernel.boot.firstwords import add_first_words
from casemate.kernel.boot.handedover import FIRST
from casemate.kernel.boot.handover import INIT, become
from casemate.kernel.boot.lastword import CONSOLES, named, say
from casemate.kernel.boot.progress import Progress
from casemate.kernel.boot.settings import Settings, load_settings
from casemate.kernel.files import write_file
from casemate.kernel.home import CONSOLE_UID, HOSTD_UID, Home
from casemate.kernel.hostnetwork import keep_network, read_network
from casemate.kernel.network import configure
from casemate.kernel.store import Store
from casemate.kernel.sys.keyboard import hand_over_alt_keys
from casemate.kernel.sys.power import Power, end_machine

API_PORT = 443
SHOW_SECONDS = 5.0
"""How long a failure stays on the console before the machine starts again."""
MODULES = (
    *("kvm_intel", "kvm_amd"),
    *("tun", "bridge", "nf_tables", "nft_dup_netdev", "8021q"),
    *("nft_limit", "veth", "nft_chain_nat", "nft_ct", "nft_masq", "nft_connlimit"),
)


def first_secrets(home: Home, network: HostNetwork, hashed: str = "") -> str:
    """Make root's account and the certificate where they are lacking.

    With the hash of a password that an installation chose there is none to show.

    Returns root's password, shown this once; empty where there was an account. What makes them is
    imported here: later starts need none of it.
    """
    password = ""
    store = Store(home.database)
    try:
        if store.account("root") is None:
            from casemate.kernel.accounts import Accounts, generate_password  # noqa: PLC0415

            accounts = Accounts(store, time.time)
            if hashed:
                accounts.set_hash("root", "Administrator", hashed, "Admin")
            else:
                password = generate_password()
                accounts.set_password("root", "Administrator", password, "Admin")
    finally:
        store.close()
    if not (home.tls / "rui.crt").exists() or not (home.tls / "rui.key").exists():
        from casemate.kernel.certificate import ensure_certificate  # noqa: PLC0415

        ensure_certificate(home.tls, network.host_name, HOSTD_UID, dt.datetime.now(dt.UTC))
    return password


def use_first_settings(home: Home, progress: Progress) -> str:
    """Take over what an installation chose for this host; return the hash of root's password.

    What cannot be used is told, and the host starts like one for which nothing was chosen.
    """
    if not (home.state / FIRST).exists():
        return ""
    from casemate.kernel.firstsettings import first_settings  # noqa: PLC0415

    try:
        chosen = first_settings(home, dt.datetime.now(dt.UTC))
    except CasemateError as error:
        progress.tell("settings", used=False, code=error.code, reason=error.reason)
        add_first_words(home, f"Settings of the installation not used: {error.reason}")
        return ""
    keep_network(home, chosen.network)
    progress.tell("settings", used=True)
    return chosen.password_hash


def known_network(home: Home, progress: Progress) -> HostNetwork:
    """Return the host's network; one that cannot be read is told, and DHCP asked."""
    try:
        return read_network(home)
    except CasemateError as error:
        progress.tell("settings", used=False, code=error.code, reason=error.reason)
        add_first_words(home, error.reason)
        return HostNetwork()


def prepare(settings: Settings, home: Home, progress: Progress) -> Settings:
    """Make the machine ready for init. Raises our errors.

    Account and certificate are made beside: a password's hash is costly on purpose.
    """
    hashed = use_first_settings(home, progress)
    network = known_network(home, progress)
    socket.sethostname(network.host_name)
    with ThreadPoolExecutor(1) as beside:
        secrets = beside.submit(first_secrets, home, network, hashed)
        progress.tell("drivers", failed=load_drivers())
        address, names = configure(network)
        write_file(home.name_servers, "\n".join(names).encode())
        progress.tell("network", address=address)
        password = secrets.result()
    (home.state / FIRST).unlink(missing_ok=True)
    if password:
        progress.tell("account", user="root", password=password)
        add_first_words(home, f"First password of root: {password}")
    progress.tell("agents")
    listener = listen(API_PORT).detach()
    api = f"https://{address or network.host_name}/sdk"
    return replace(settings, listener=listener, api=api, host_name=network.host_name)


def load_drivers() -> list[str]:
    """Load what drives the machine's devices; return what did not load, and why."""
    drivers = Drivers()
    failed = list(drivers.match(present()))
    for name in MODULES:
        try:
            drivers.need(name)
        except CasemateError as error:  # a machine without KVM refuses its module
            failed.append(f"{name}: {error.reason}")
    return failed


def main() -> NoReturn:
    """Prepare the machine and become init; end the machine where that fails."""
    progress = Progress(-1)
    try:
        settings = load_settings(sys.argv[1])
        progress = Progress(settings.progress, _screen())
        home = settings.home_inside
        home.create()
        home.console.mkdir(exist_ok=True, mode=0o700)
        os.chown(home.console, CONSOLE_UID, CONSOLE_UID)
        become(INIT, prepare(settings, home, progress))
    except BaseException as error:  # noqa: BLE001 (Linux panics when its first process ends)
        refusal = named(error, "start of the host")
        progress.refuse(refusal)
        say(refusal, CONSOLES)
    time.sleep(SHOW_SECONDS)
    end_machine(Power.RESTART)


def _screen() -> int:
    """Return the screen, its keyboard made ready for the direct console; -1 where there is none."""
    try:
        screen = os.open(CONSOLES[0], os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return -1
    with suppress(CasemateError):  # a terminal without a keyboard of Linux's
        hand_over_alt_keys(screen)
    return screen


if __name__ == "__main__":
    main()
