"""The first program inside the visor root of a machine that boots by itself.

    casemate-python -I -B -m casemate.kernel.ownmachine SETTINGS

It does what the command line does on an installed Linux: loads the drivers (from layers that were
verified), sets up the network, makes the first account and the certificate where there are none,
opens the API's socket; then it becomes init.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
import time
from dataclasses import replace
from typing import NoReturn

from casemate.errors import CasemateError
from casemate.kernel.accounts import Accounts, generate_password
from casemate.kernel.boot.drivers import Drivers, present
from casemate.kernel.boot.firstwords import add_first_words
from casemate.kernel.boot.lastword import named, say
from casemate.kernel.boot.launch import listen
from casemate.kernel.boot.load import INIT, become
from casemate.kernel.boot.progress import Progress
from casemate.kernel.boot.settings import Settings, load_settings
from casemate.kernel.certificate import ensure_certificate
from casemate.kernel.home import CONSOLE_UID, HOSTD_UID, Home
from casemate.kernel.network import configure
from casemate.kernel.store import Store
from casemate.kernel.sys.power import Power, end_machine

API_PORT = 443
SHOW_SECONDS = 5.0
"""How long a failure stays on the console before the machine starts again."""
MODULES = (
    *("kvm_intel", "kvm_amd"),
    *("tun", "bridge", "nf_tables", "nft_dup_netdev", "8021q"),
)


def first_account(home: Home) -> str:
    """Make root's account where there is none; return its password, shown this once."""
    store = Store(home.database)
    try:
        if store.account("root") is not None:
            return ""
        password = generate_password()
        Accounts(store, time.time).set_password("root", "Administrator", password, "Admin")
        return password
    finally:
        store.close()


def prepare(settings: Settings, home: Home, progress: Progress) -> Settings:
    """Make the machine ready for init. Raises our errors."""
    drivers = Drivers()
    failed = list(drivers.match(present()))
    for name in MODULES:
        try:
            drivers.need(name)
        except CasemateError as error:  # a machine without KVM refuses its module
            failed.append(f"{name}: {error.reason}")
    progress.tell("drivers", failed=failed)
    address = configure(settings.host_name)
    progress.tell("network", address=address)
    password = first_account(home)
    ensure_certificate(home.tls, settings.host_name, HOSTD_UID, dt.datetime.now(dt.UTC))
    if password:
        progress.tell("account", user="root", password=password)
        add_first_words(home, f"First password of root: {password}")
    listener = listen(API_PORT).detach()
    api = f"https://{address or settings.host_name}/sdk"
    return replace(settings, listener=listener, api=api)


def main() -> NoReturn:
    """Prepare the machine and become init; end the machine where that fails."""
    progress = Progress(-1)
    try:
        settings = load_settings(sys.argv[1])
        progress = Progress(settings.progress)
        home = settings.home_inside
        home.create()
        home.console.mkdir(exist_ok=True, mode=0o700)
        os.chown(home.console, CONSOLE_UID, CONSOLE_UID)
        become(INIT, prepare(settings, home, progress))
    except BaseException as error:  # noqa: BLE001 (Linux panics when its first process ends)
        refusal = named(error, "start of the host")
        progress.refuse(refusal)
        say(refusal)
    time.sleep(SHOW_SECONDS)
    end_machine(Power.RESTART)


if __name__ == "__main__":
    main()
