"""Every action of the host's pages, done with the mouse's clicks and seen to have been done."""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.browser.hostpages import DATASTORE, fill, keep, press_button, show, told

from casemate.calls.admin import ChangePassword
from casemate.calls.certificates import InstallCertificate, PemReply, SigningRequest
from casemate.calls.console import EndHost
from casemate.calls.messages import CancelTask, Empty
from casemate.calls.software import AcceptanceSet, ChangeReply, LevelReply, SoftwareChange
from casemate.machine.facts import HostFact, PowerState, TaskFact, TaskState, VmFact
from casemate.machine.governance import RoleFact, SessionFact
from casemate.testing.chromium import Browser, find_chromium
from casemate.testing.fakefacts import BOOT_TIME, fake_vm
from casemate.testing.fakekernel import PASSWORD
from casemate.testing.hostsimulator import HostSimulator

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium here"),
]

LONG_SECONDS = 90.0


def seen(page: Browser, text: str) -> None:
    page.until(f"document.querySelector('main').innerText.includes({json.dumps(text)})")


def button_there(page: Browser, method: str) -> None:
    page.until(f"document.querySelector('[data-method=\"{method}\"]:not(:disabled)') !== null")


def machine(host: HostSimulator, name: str) -> VmFact:
    return next(one for one in host.kernel.all(VmFact) if one.config.name == name)


def fresh_vm(host: HostSimulator, number: int) -> VmFact:
    made = fake_vm(number)
    host.run_in_kernel_loop(lambda: host.kernel.state(made))
    return made


@pytest.fixture
def own_machine(host: HostSimulator) -> Iterator[None]:
    """For the time of a test the host is the machine's own system."""
    before = next(iter(host.kernel.all(HostFact)))
    host.run_in_kernel_loop(lambda: host.kernel.state(replace(before, state_sealed=True)))
    yield
    host.run_in_kernel_loop(lambda: host.kernel.state(before))


def test_the_host_goes_into_maintenance_and_comes_back(page: Browser) -> None:
    press_button(page, "EnterMaintenanceMode_Task")
    told(page, "Entering maintenance mode: done")
    button_there(page, "ExitMaintenanceMode_Task")
    seen(page, "maintenance")
    keep(page, "maintenance")
    press_button(page, "ExitMaintenanceMode_Task")
    told(page, "Leaving maintenance mode: done")
    button_there(page, "EnterMaintenanceMode_Task")
    assert not page.complaints()


@pytest.mark.usefixtures("own_machine")
def test_a_machine_of_its_own_is_restarted_and_shut_down(
    page: Browser, host: HostSimulator
) -> None:
    ends: list[bool] = []

    def ended(request: object) -> Empty:
        assert isinstance(request, EndHost)
        ends.append(request.restart)
        return Empty()

    host.kernel.answer(EndHost, ended)
    button_there(page, "RebootHost_Task")
    press_button(page, "RebootHost_Task")
    told(page, "Restart: done")
    press_button(page, "ShutdownHost_Task")
    told(page, "Shutdown: done")
    assert ends == [True, False]


def test_no_is_an_answer_to_a_question(page: Browser, host: HostSimulator) -> None:
    made = fresh_vm(host, 40)
    show(page, "vm/40")
    page.run("window.confirm = (text) => { window.asked = text; return false; }")
    page.run("document.querySelector('[data-method=Destroy_Task]').click()")
    assert "no way back" in str(page.run("window.asked"))
    assert host.kernel.vm(made.vm) is not None


def test_power_of_every_kind_from_the_list(page: Browser, host: HostSimulator) -> None:
    show(page, "vms")

    def press(method: str, done: str, name: str = "vm1") -> None:
        row = (
            f"[...document.querySelectorAll('tbody tr')].find((row) => "
            f"row.querySelector('a').textContent === '{name}')"
        )
        button = f"{row}.querySelector('[data-method={method}]')"
        page.until(f"{row} !== undefined && !{button}.disabled")
        page.run(f"document.querySelector('#status').textContent = ''; {button}.click()")
        told(page, done)

    press("PowerOnVM_Task", "Power on: done")
    press("ResetVM_Task", "Reset: done")
    press("SuspendVM_Task", "Suspend: done")
    seen(page, "suspended")
    press("PowerOnVM_Task", "Power on: done")
    press("ShutdownGuest", "Shut down guest: asked")
    assert machine(host, "vm1").power is PowerState.POWERED_OFF


def test_many_machines_are_searched_by_name(page: Browser, host: HostSimulator) -> None:
    many = [fresh_vm(host, number).vm for number in range(60, 71)]
    show(page, "vms")
    page.run(
        "{const box = document.querySelector('input[type=search]'); box.value = 'VM66';"
        "box.dispatchEvent(new Event('input'));}"
    )
    page.until("document.querySelectorAll('tbody tr').length === 1")
    keep(page, "search")
    host.run_in_kernel_loop(lambda: [host.kernel.retract(VmFact, one) for one in many])


def test_a_machine_is_made_with_a_disc_and_without_a_network(
    page: Browser, host: HostSimulator, volumes: Path
) -> None:
    (volumes / "datastore1" / "install.iso").write_bytes(bytes(4096))
    show(page, "vms")
    page.run("document.querySelector('#new').open = true")
    keep(page, "new-vm")
    fill(
        page, "#new", name="installed", network="", firmware="bios", disc="[datastore1] install.iso"
    )
    told(page, "installed: created")
    made = machine(host, "installed").config
    assert made.firmware == "bios"
    assert not made.nics
    assert [disk.kind for disk in made.disks] == ["disk", "cdrom"]


def test_a_machine_is_unregistered_and_registered_again(page: Browser, host: HostSimulator) -> None:
    made = fresh_vm(host, 41)
    show(page, "vm/41")
    press_button(page, "UnregisterVM")
    told(page, "vm41: removed")
    page.until("document.body.dataset.ready === 'vms'")
    assert host.kernel.vm(made.vm) is None
    fill(page, "#register", path="[datastore1] vm41/vm41.vmx")
    told(page, "[datastore1] vm41/vm41.vmx: registered")


def test_a_machine_gets_shares_and_another_pool(page: Browser, host: HostSimulator) -> None:
    made = fresh_vm(host, 42)
    show(page, "pools")
    fill(page, "#new", name="silver", **{"cpu-reservation": "100"})
    told(page, "silver: creation: done")
    seen(page, "silver")
    pool = page.run("document.querySelector('[data-method^=Destroy-]').dataset.method.slice(8)")
    fill(page, f"#change-{pool}", **{"cpu-level": "custom", "cpu-shares": "2500"})
    told(page, "silver: change: done")
    seen(page, "shares 2500 (custom)")
    levels = f"document.querySelector('#change-{pool} [name=cpu-shares]').value"
    page.until(f"{levels} === '2500'")
    keep(page, "pool")
    show(page, "vm/42")
    page.run("document.querySelector('#settings').open = true")
    keep(page, "vm-settings")
    given = {"cpus": "2", "pool": str(pool), "memory-level": "high", "cpu-limit": "1500"}
    fill(page, "#settings", name="renamed", **given)
    told(page, "Change: done")
    changed = host.kernel.vm(made.vm)
    assert changed is not None
    assert (changed.config.name, changed.config.cpus, changed.pool) == ("renamed", 2, pool)
    assert changed.config.cpu_allocation.limit == 1500
    assert changed.config.memory_allocation.shares_level == "high"
    page.until("document.querySelector('#settings [name=name]').value === 'renamed'")
    fill(page, "#settings", name="vm42")
    page.until("document.querySelector('h2').textContent === 'vm42'")
    host.run_in_kernel_loop(lambda: host.kernel.retract(VmFact, made.vm))
    show(page, "pools")
    press_button(page, f"Destroy-{pool}")
    told(page, "silver: removal: done")


def test_disks_and_cards_come_are_unplugged_and_go(page: Browser, host: HostSimulator) -> None:
    made = fresh_vm(host, 43)
    show(page, "vm/43")

    def config() -> VmFact:
        found = host.kernel.vm(made.vm)
        assert found is not None
        return found

    fill(page, "#disk", size="2")
    told(page, "Change: done")
    seen(page, "2.0 GiB")
    assert len(config().config.disks) == 3
    fill(page, "#card", network="VM Network")
    page.until("document.querySelectorAll('[data-method^=connect-]').length === 2")
    assert len(config().config.nics) == 2
    press_button(page, "connect-4001")
    told(page, "Network adapter 2: done")
    assert [nic.connected for nic in config().config.nics] == [True, False]
    page.until("document.querySelector('[data-method=connect-4001]').textContent === 'Connect'")
    keep(page, "devices")
    press_button(page, "remove-4001")
    page.until("document.querySelectorAll('[data-method^=connect-]').length === 1")
    assert len(config().config.nics) == 1
    press_button(page, "remove-2001")
    page.until("!document.querySelector('main').innerText.includes('2.0 GiB')")
    assert len(config().config.disks) == 2


def test_snapshots_are_gone_back_to_and_removed(page: Browser, host: HostSimulator) -> None:
    made = fresh_vm(host, 44)
    show(page, "vm/44")
    for name in ("first", "second"):
        fill(page, "#snapshot", name=name, description=f"the {name}")
        seen(page, f"the {name}")
    keep(page, "snapshots")
    press_button(page, "RevertToSnapshot_Task-1")
    told(page, "Go back: done")
    found = host.kernel.vm(made.vm)
    assert found is not None
    assert found.current_snapshot == 1
    press_button(page, "RemoveSnapshot_Task-2")
    page.until("!document.querySelector('main').innerText.includes('the second')")
    assert not page.complaints()


def test_switches_come_and_go_with_what_guests_may_do_on_them(page: Browser) -> None:
    show(page, "network")
    fill(page, "#switch", name="vSwitch7")
    told(page, "vSwitch7: created")
    button_there(page, "switch-vSwitch7")
    page.run("document.querySelector('#group [name=allowPromiscuous]').checked = true")
    fill(page, "#group", name="mirror", vswitchName="vSwitch7", vlanId="12")
    told(page, "mirror: created")
    seen(page, "may see what is for others")
    seen(page, "VLAN 12")
    keep(page, "switches")
    press_button(page, "group-mirror")
    told(page, "mirror: removed")
    press_button(page, "switch-vSwitch7")
    told(page, "vSwitch7: removed")
    page.until("document.querySelector('[data-method=switch-vSwitch7]') === null")


def test_a_role_is_made_given_and_removed_and_a_session_ended(
    page: Browser, host: HostSimulator
) -> None:
    show(page, "users")
    page.run("document.querySelector('#role').open = true")
    page.run(
        "for (const one of document.querySelector('#role select').options)"
        " one.selected = one.value.startsWith('VirtualMachine.Interact.Power');"
    )
    keep(page, "role")
    fill(page, "#role", name="switchers")
    told(page, "switchers: done")
    seen(page, "switchers")
    role = next(one for one in host.kernel.all(RoleFact) if one.name == "switchers")
    assert "VirtualMachine.Interact.PowerOn" in role.privileges
    fill(page, "#permit", id="auditor", role=str(role.number), password="An0ther-long-one")
    told(page, "auditor: changed")
    seen(page, "switchers on everything")
    fill(page, "#permit", id="auditor", role="-2")
    told(page, "auditor: changed")
    press_button(page, f"role-{role.number}")
    told(page, "switchers: removed")
    fill(page, "#own", old="The-present-0ne", new="An0ther-long-one")
    told(page, "changed; log in with the new password")
    (own,) = (one for one in host.kernel.asked if isinstance(one, ChangePassword))
    assert (own.old_password, own.new_password) == ("The-present-0ne", "An0ther-long-one")
    given = json.dumps({"userName": "auditor", "password": PASSWORD})
    asked = f"{{method: 'POST', credentials: 'omit', body: {json.dumps(given)}}}"
    login = "/sdk/vim25/9.1.0.0/SessionManager/ha-sessionmgr/Login"
    assert page.run(f"fetch('{login}', {asked}).then((reply) => reply.status)") == 200
    show(page, "packages")
    show(page, "users")
    page.run(
        "[...document.querySelectorAll('[data-method^=end-]')]"
        ".find((one) => one.closest('tr').innerText.includes('auditor')).click()"
    )
    told(page, "Session: ended")
    assert "auditor" not in {one.user for one in host.kernel.all(SessionFact)}


def test_packages_are_installed_removed_and_their_level_changed(
    page: Browser, host: HostSimulator
) -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    def change(request: object) -> ChangeReply:
        assert isinstance(request, SoftwareChange)
        asked.append((request.action, request.vibs or request.names))
        return ChangeReply("done", request.vibs, request.names, (), reboot_required=True)

    def level(request: object) -> LevelReply:
        assert isinstance(request, AcceptanceSet)
        asked.append(("level", (request.level,)))
        return LevelReply(request.level)

    host.kernel.answer(SoftwareChange, change)
    host.kernel.answer(AcceptanceSet, level)
    show(page, "packages")
    fill(page, "#install", path="[datastore1] driver.vib")
    told(page, "Install: done")
    button_there(page, "Uninstall-casemate-kernel")
    press_button(page, "Uninstall-casemate-kernel")
    told(page, "Remove: done")
    fill(page, "#level", level="community")
    told(page, "Change: done")
    assert [action for action, _ in asked] == ["install", "remove", "level"]
    assert asked[0][1] == ("[datastore1] driver.vib",)
    assert asked[2][1] == ("CommunitySupported",)


def test_a_file_is_fetched_and_a_machine_registered_from_its_folder(
    page: Browser, host: HostSimulator, volumes: Path, tmp_path: Path
) -> None:
    folder = volumes / "datastore1" / "kept"
    folder.mkdir()
    (folder / "b #2.txt").write_bytes(b"what was kept")
    (folder / "kept.vmx").write_bytes(b"")
    page.send("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    show(page, DATASTORE)
    page.run(
        "[...document.querySelectorAll('main a')].find((a) => a.textContent === 'kept/').click()"
    )
    seen(page, "b #2.txt")
    keep(page, "folder")
    press_button(page, "Download-b #2.txt")
    deadline = time.monotonic() + LONG_SECONDS
    while not (arrived := [one for one in tmp_path.iterdir() if one.suffix == ".txt"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert arrived[0].read_bytes() == b"what was kept"
    press_button(page, "Register-kept.vmx")
    told(page, "kept.vmx: registered")
    made = next(one for one in host.kernel.all(VmFact) if "kept" in one.config.vmx_path)
    host.run_in_kernel_loop(lambda: host.kernel.retract(VmFact, made.vm))
    page.run("[...document.querySelectorAll('main a')].find((a) => a.textContent === 'up').click()")
    button_there(page, "Delete-kept")
    press_button(page, "Delete-kept")
    told(page, "kept: deleted")
    assert not folder.exists()


def test_a_certificate_is_asked_for_and_another_put_in_its_place(
    page: Browser, host: HostSimulator
) -> None:
    asked: list[SigningRequest | InstallCertificate] = []

    def answer(request: object) -> PemReply | Empty:
        assert isinstance(request, SigningRequest | InstallCertificate)
        asked.append(request)
        return PemReply("-----BEGIN CERTIFICATE REQUEST-----\n") if len(asked) == 1 else Empty()

    host.kernel.answer(SigningRequest, answer)
    host.kernel.answer(InstallCertificate, answer)
    shown = show(page, "certificate")
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(host.certificate.decode())).hexdigest()
    assert ":".join(re.findall("..", digest.upper())) in shown
    assert "CN=localhost" in shown
    fill(page, "#request", names="vm.example, 192.0.2.7")
    told(page, "Request: made")
    page.until("document.querySelector('#csr').value.startsWith('-----BEGIN CERT')", 100)
    keep(page, "certificate")
    fill(page, "#install", cert="-----BEGIN CERTIFICATE-----")
    told(page, "Certificate: replaced")
    first, second = asked
    assert isinstance(first, SigningRequest)
    assert first.names == ("vm.example", "192.0.2.7")
    assert isinstance(second, InstallCertificate)
    assert second.pem == "-----BEGIN CERTIFICATE-----"
    assert not page.complaints()


def test_a_task_is_cancelled(page: Browser, host: HostSimulator) -> None:
    task = TaskFact(
        *("haTask-1-vim.VirtualMachine.createSnapshot-77", "1", "VirtualMachine"),
        *("createSnapshot", TaskState.RUNNING, 40, BOOT_TIME, "root"),
        started=BOOT_TIME,
        cancellable=True,
    )
    host.run_in_kernel_loop(lambda: host.kernel.state(task))

    def cancelled(request: object) -> Empty:
        assert isinstance(request, CancelTask)
        host.kernel.state(replace(task, state=TaskState.ERROR, completed=BOOT_TIME + 1))
        return Empty()

    host.kernel.answer(CancelTask, cancelled)
    show(page, "activity")
    seen(page, "running, 40 %")
    keep(page, "tasks")
    press_button(page, f"CancelTask-{task.task}")
    told(page, "Cancel: done")
    page.until(f"document.querySelector('[data-method=\"CancelTask-{task.task}\"]') === null")
    host.run_in_kernel_loop(lambda: host.kernel.retract(TaskFact, task.task))
