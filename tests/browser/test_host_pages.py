"""The host's pages in a real browser: every page, the actions, keyboard, phone, dark."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.browser.hostpages import DATASTORE, EVIL, fill, keep, press_button, show, told

from casemate.machine.facts import PowerState, VmFact
from casemate.testing.chromium import Browser, find_chromium
from casemate.testing.fakescreen import FakeScreen, colour_at
from casemate.testing.hostsimulator import HostSimulator

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium here"),
]

PATIENCE = 100.0
PAGES = {
    "host": "fake.example",
    "vms": "Virtual machines",
    "pools": "Resource pools",
    "storage": "Storage",
    "network": "Network",
    "users": "Users",
    "packages": "Packages",
    "measurements": "Measurements",
    "activity": "Tasks and events",
    "hardening": "Hardening",
    "certificate": "Certificate",
}


def test_every_page_shows_what_the_host_says_and_logs_no_complaint(page: Browser) -> None:
    page.events.clear()
    for name, title in PAGES.items():
        text = show(page, name)
        assert text.startswith(title), name
        keep(page, name)
    assert "vm1" in show(page, "vms")
    assert "Resources" in show(page, "pools")
    assert "entitled" in show(page, "pools")
    assert "datastore1" in show(page, "storage")
    assert "VM Network" in show(page, "network")
    assert "auditor" in show(page, "users")
    assert "casemate-kernel" in show(page, "packages")
    text = show(page, "measurements")
    assert "explains every PCR" in text
    assert "BootComplete" in text
    hardening = show(page, "hardening")
    assert "execInstalledOnly" in hardening
    assert "the cell around each QEMU is the only wall" in hardening
    assert "logged in" in show(page, "activity")
    assert not page.complaints()


def test_nothing_is_asked_of_anybody_else(page: Browser, host: HostSimulator) -> None:
    page.events.clear()
    for name in PAGES:
        show(page, name)
    asked = page.requests()
    assert asked
    assert all(url.startswith(f"https://127.0.0.1:{host.port}/") for url in asked)


def test_a_vm_is_powered_on_and_off_and_the_page_follows(
    page: Browser, host: HostSimulator
) -> None:
    show(page, "vm/1")
    page.run("document.querySelector('[data-method=PowerOnVM_Task]').click()")
    page.until("document.querySelector('main').innerText.includes('\\non\\n')")
    assert host.kernel.vm("1").power is PowerState.POWERED_ON
    keep(page, "vm")
    fill(page, "#snapshot", name="before lunch")
    page.until("document.querySelector('main').innerText.includes('before lunch')")
    page.run("document.querySelector('[data-method=PowerOffVM_Task]').click()")
    page.until("document.querySelector('main').innerText.includes('\\noff\\n')")
    assert "PowerOnVM_Task" in show(page, "activity")


def test_a_name_is_text_whatever_it_says(page: Browser) -> None:
    assert EVIL in show(page, "vms")
    assert EVIL in show(page, "vm/3")
    assert page.run("document.querySelectorAll('main img').length") == 0


def test_a_proof_is_asked_for_with_a_fresh_nonce(page: Browser) -> None:
    show(page, "measurements")
    nonce = ""
    for _ in range(2):
        page.run("document.querySelector('main button').click()")
        # The page is drawn anew behind each proof: only another nonce is the next one.
        page.until(
            "((found) => found && found.textContent && "
            f"found.textContent !== '{nonce}')(document.querySelector('#proof code'))"
        )
        nonce = str(page.run("document.querySelector('#proof code').textContent"))


def test_on_a_phone_nothing_sticks_out(page: Browser) -> None:
    page.look(width=360, height=740, dark=True)
    for name in (*PAGES, "vm/1"):
        show(page, name)
        keep(page, f"phone-{name.partition('/')[0]}")
        current = "document.querySelector('nav [aria-current]').getBoundingClientRect()"
        assert page.run(f"{current}.left >= 0 && {current}.right <= innerWidth"), name
        wide = page.run("document.documentElement.scrollWidth")
        assert isinstance(wide, int)
        assert wide <= 360, name


def test_the_audit_of_hardening_is_made_when_asked_for(page: Browser) -> None:
    assert "70 of 100" not in show(page, "hardening")
    page.run("document.querySelector('.row button').click()")
    page.until("document.querySelector('#audit').innerText.includes('70 of 100')")
    shown = str(page.run("document.querySelector('#audit').innerText"))
    assert "28 of 28" in shown
    assert "The processor has no NX." in shown
    keep(page, "audit")
    assert not page.complaints()


def test_a_wrong_password_is_told_and_logging_out_forgets_the_session(page: Browser) -> None:
    page.run("document.querySelector('#who button').click()")
    page.until("document.querySelector('form') !== null")
    page.until("sessionStorage.length === 0")
    keep(page, "login")
    page.run(
        "document.querySelector('[name=user]').value = 'root';"
        "document.querySelector('[name=password]').value = 'wrong';"
        "document.querySelector('form button').click()"
    )
    page.until("document.querySelector('#status').innerText.includes('incorrect')")


def test_a_forgotten_session_leads_back_to_the_login(page: Browser, host: HostSimulator) -> None:
    page.run("sessionStorage.setItem('casemate-session', '0'.repeat(64))")
    page.run("location.hash = 'packages'")
    page.until("document.querySelector('form') !== null")
    del host


def fills_the_screen_and_comes_back(page: Browser, screen: FakeScreen) -> None:
    page.run("document.querySelector('[data-method=FullScreen]').focus()")
    # As a person does: nothing else may fill the screen.
    page.press("Enter")
    canvas = "document.querySelector('canvas')"
    page.until(
        f"document.fullscreenElement === {canvas} && document.activeElement === {canvas}",
        PATIENCE,
    )
    keep(page, "console-full")
    page.press("q")
    deadline = time.monotonic() + PATIENCE
    while (ord("q"), False) not in screen.keys:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    page.run("document.exitFullscreen()")
    page.until("document.fullscreenElement === null", PATIENCE)


def connects_again(page: Browser, host: HostSimulator) -> None:
    screen = host.kernel.screen
    hidden = "document.querySelector('[data-method=ConnectAgain]').hidden"
    assert page.run(hidden) is True
    host.run_in_kernel_loop(screen.hang_up)
    page.until(f"{hidden} === false", PATIENCE)
    assert "closed" in str(page.run("document.querySelector('#console-state').innerText"))
    keep(page, "console-closed")
    page.run("document.querySelector('[data-method=ConnectAgain]').click()")
    page.until(f"document.querySelector('canvas')?.dataset.drawn === 'yes' && {hidden}", PATIENCE)
    page.run("document.querySelector('canvas').focus()")
    page.press("w")
    deadline = time.monotonic() + PATIENCE
    while (ord("w"), False) not in screen.keys:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_console_shows_the_guest_and_sends_it_keys_and_pointer(
    page: Browser, host: HostSimulator
) -> None:
    screen = host.kernel.screen
    page.events.clear()
    show(page, "vm/2")
    page.run("document.querySelector('[data-method=PowerOnVM_Task]').click()")
    page.until("document.querySelector('a.button') !== null")
    page.run("document.querySelector('a.button').click()")
    page.until("document.querySelector('canvas')?.dataset.drawn === 'yes'")
    shown = page.run(
        "JSON.stringify([...document.querySelector('canvas').getContext('2d')"
        ".getImageData(7, 9, 1, 1).data])"
    )
    assert shown == f"[{colour_at(7, 9)[0]},{colour_at(7, 9)[1]},{colour_at(7, 9)[2]},255]"
    page.run("document.querySelector('canvas').focus()")
    page.press("x")
    page.press("Enter")
    keep(page, "console")
    page.run("document.querySelector('[data-method=CtrlAltDel]').click()")
    deadline = time.monotonic() + 100
    control, alt, delete = 0xFFE3, 0xFFE9, 0xFFFF
    pressed = [(control, True), (alt, True), (delete, True)]
    while screen.keys[-6:-3] != pressed:
        assert time.monotonic() < deadline, screen.keys
        time.sleep(0.02)
    assert screen.keys[-3:] == [(delete, False), (alt, False), (control, False)]
    assert (0xFF0D, True) in screen.keys
    page.run(
        "{const c = document.querySelector('canvas'), b = c.getBoundingClientRect();"
        "c.dispatchEvent(new PointerEvent('pointermove', {clientX: b.left + b.width / 2,"
        " clientY: b.top + b.height / 2, buttons: 2}));}"
    )
    while not screen.pointer:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert screen.pointer[-1] == (4, 160, 100)
    fills_the_screen_and_comes_back(page, screen)
    connects_again(page, host)
    assert not page.complaints()
    show(page, "vms")
    while screen.viewers:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_vm_is_made_changed_and_deleted(page: Browser, host: HostSimulator) -> None:
    show(page, "vms")
    fill(page, "#new", name="made here", memory="64")
    told(page, "made here: created")
    made = next(one for one in host.kernel.all(VmFact) if one.config.name == "made here")
    show(page, f"vm/{made.vm}")
    fill(page, "#settings", note="a note", memory="128")
    told(page, "Change: done")
    changed = host.kernel.vm(made.vm)
    assert changed is not None
    assert changed.config.annotation == "a note"
    press_button(page, "Destroy_Task")
    told(page, "made here: removed")
    page.until("document.body.dataset.ready === 'vms'")
    assert host.kernel.vm(made.vm) is None


def test_a_task_that_fails_says_why(page: Browser, volumes: Path) -> None:
    vanishing = volumes / "datastore1" / "vanishing"
    vanishing.write_bytes(b"")
    show(page, DATASTORE)
    vanishing.unlink()
    press_button(page, "Delete-vanishing")
    page.until("document.querySelector('#status.failure') !== null")
    assert "vanishing" in str(page.run("document.querySelector('#status').innerText"))


def test_files_are_brought_and_deleted(page: Browser, volumes: Path) -> None:
    show(page, DATASTORE)
    fill(page, "#folder", name="new")
    told(page, "new: created")
    page.run(
        "{const picked = new DataTransfer();"
        "picked.items.add(new File(['what is in it'], 'a #1.txt'));"
        "const input = document.querySelector('input[type=file]');"
        "input.files = picked.files; input.dispatchEvent(new Event('change'));}"
    )
    told(page, "a #1.txt: uploaded")
    page.until("document.querySelector('main').innerText.includes('a #1.txt')")
    assert (volumes / "datastore1" / "a #1.txt").read_bytes() == b"what is in it"
    keep(page, "files")
    press_button(page, "Delete-a #1.txt")
    told(page, "a #1.txt: deleted")


def test_pools_networks_accounts_and_roles_come_and_go(page: Browser) -> None:
    show(page, "pools")
    fill(page, "#new", name="gold")
    told(page, "gold: creation: done")
    page.until("document.querySelector('[data-method^=Destroy-]') !== null")
    page.run("window.confirm = () => true")
    page.run("document.querySelector('[data-method^=Destroy-]').click()")
    told(page, "gold: removal: done")
    show(page, "network")
    fill(page, "#group", name="dmz", vlanId="0")
    told(page, "dmz: created")
    page.until("document.querySelector('[data-method=group-dmz]') !== null")
    press_button(page, "group-dmz")
    told(page, "dmz: removed")
    show(page, "users")
    fill(page, "#account", id="carol", password="Long-enough-4-all")
    told(page, "carol: can log in")
    page.until("document.querySelector('[data-method=remove-carol]') !== null")
    press_button(page, "remove-carol")
    told(page, "carol: removed")


def test_the_browser_itself_replays_the_log(page: Browser) -> None:
    text = show(page, "measurements")
    assert "replayed: 2 events" in text
    assert "not explained" not in text
    stages = "document.querySelector('svg.chain').getAttribute('aria-label')"
    assert str(page.run(stages)).startswith("Loader: ")
    page.run(
        "{const box = document.querySelector('input[type=search]'); box.value = 'bootcomplete';"
        "box.dispatchEvent(new Event('input'));}"
    )
    rows = page.run("document.querySelectorAll('table')[0].querySelectorAll('tbody tr').length")
    assert isinstance(rows, int)
    assert 0 < rows < 5
