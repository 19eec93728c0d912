"""What is promised of a host's memory, tried against hosts that run."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.host.conftest import descendants

from casemate.formats.cms import sign_detached
from casemate.formats.elf import ElfKind, parse_elf
from casemate.image.build import RELEASED, make_payload, make_vib
from casemate.image.files import Recipe
from casemate.image.pki import load_signer
from casemate.image.profile import BuiltVib, make_profile, read_bank, write_bank
from casemate.image.tree import File, by_path
from casemate.kernel import confine
from casemate.kernel.boot.settings import ENVIRONMENT, PYTHON
from casemate.kernel.processes import read_texts
from casemate.kernel.sys import mounts, spawn
from casemate.kernel.sys.loops import open_loop
from casemate.kernel.sys.memfd import sealed_bytes
from casemate.kernel.sys.namespaces import Namespace, enter
from casemate.machine.processplan import APP, ProcessPlan
from casemate.policy.hardening import Waiver
from casemate.policy.levels import Level
from casemate.policy.processaudit import Expected, audit_process
from casemate.policy.waivers import write_body, write_policy
from casemate.testing.elves import Elf

LISTENS, UNCONNECTED = "0A", "07"
"""States of sockets in /proc/net."""

pytestmark = [
    pytest.mark.host,
    pytest.mark.usefixtures("root_only"),
    pytest.mark.timeout(600),
]
PAXTEST = Path("/usr/lib/paxtest")
DATASTORE = "/var/lib/casemate/volumes/datastore1"
KILLABLE = (
    *("anonmap", "execbss", "execdata", "execheap", "execstack", "shlibbss", "shlibdata"),
    *("mprotanon", "mprotbss", "mprotdata", "mprotheap", "mprotstack", "mprotshbss"),
    *("mprotshdata", "writetext"),
)
ADDR_NO_RANDOMIZE = 0x0040000
LAUNCHES = "28"
"""So many that no bit of a random address is the same by chance in all but one of them."""


def output_of(program: spawn.Program, plan: ProcessPlan | None, seconds: float = 60) -> str:
    """Run a program, by a plan or plainly, to its end; return what it wrote."""
    reader, writer = os.pipe()
    program = spawn.Program(program.argv, program.env, {1: writer, 2: writer}, program.cwd)
    child = confine.start(plan, program) if plan else spawn.spawn(program)
    os.close(writer)
    if not spawn.wait_gone(child.pidfd, seconds):
        spawn.kill(child.pidfd)
    status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    os.close(child.pidfd)
    with os.fdopen(reader) as stream:
        return f"{stream.read()}\nended with {status}"


def paxtest(plan: ProcessPlan | None) -> dict[str, str]:
    environment = {"LD_LIBRARY_PATH": str(PAXTEST), "PAXTEST_MODE": "1"}
    found = {}
    for name in KILLABLE:
        said = output_of(spawn.Program((str(PAXTEST / name),), environment, cwd="/"), plan)
        found[name] = said.partition(":")[2].partition("\n")[0].strip()
    return found


def test_every_attack_of_paxtest_is_killed_under_our_launcher_and_not_without_it():
    if not PAXTEST.is_dir():
        pytest.skip("paxtest absent")
    assert set(paxtest(APP).values()) == {"Killed"}
    assert "Vulnerable" in paxtest(None).values()


@contextmanager
def running(*argv: str, personality: int = 0) -> Iterator[int]:
    process = subprocess.Popen(
        argv,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: ctypes.CDLL(None).personality(personality),  # noqa: PLW1509
    )
    try:
        maps = Path(f"/proc/{process.pid}/maps")
        deadline = time.monotonic() + 60
        while "libc" not in maps.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def predictable(pid: int) -> str:
    texts = read_texts(pid)
    assert texts is not None
    report = audit_process(texts, Expected("x", "appDom", None))
    (row,) = (row for row in report.results if row.rule == "random-addresses")
    return row.reason


def test_switched_off_randomisation_and_fixed_programs_are_caught():
    with running("/usr/bin/sleep", "999") as pid:
        assert predictable(pid) == ""
    with running("/usr/bin/sleep", "999", personality=ADDR_NO_RANDOMIZE) as pid:
        assert "setarch" in predictable(pid)
    fixed = Path("/usr/bin/python3.11")
    if parse_elf(fixed.read_bytes()).kind is not ElfKind.EXECUTABLE:
        pytest.skip("this distribution's Python is position-independent")
    with running(str(fixed), "-c", "import time; time.sleep(999)") as pid:
        assert "not position-independent" in predictable(pid)


WRITABLE_CODE = """
import mmap
try: mmap.mmap(-1, 4096, prot=7); print("RAN")
except OSError as error: print("stopped", error.errno)
"""
FOREIGN_LIBRARY = f"""
import ctypes
try: ctypes.CDLL("{DATASTORE}/evil.so"); print("RAN")
except OSError as error: print("stopped", error)
"""
FOREIGN_PROGRAM = """
import os, shutil
shutil.copy("/usr/bin/qemu-img", "/tmp/x"); os.chmod("/tmp/x", 0o755)
try: os.execv("/tmp/x", ["x"])
except OSError as error: print("stopped", error.errno)
"""
MEMORY_PROGRAM = """
import os
try:
    fd = os.memfd_create("x"); os.write(fd, open("/usr/bin/qemu-img", "rb").read())
    os.execve(f"/proc/self/fd/{fd}", ["x"], {})
except OSError as error: print("stopped", error.errno)
"""
BY_THE_LOADER = """
import os, shutil
shutil.copy("/usr/bin/qemu-img", "/tmp/y")
os.execv("/usr/lib64/ld-linux-x86-64.so.2", ["ld.so", "/tmp/y"])
"""
FOREIGN_SCRIPT = f"""
import os
os.execv("/usr/bin/casemate-python", ["casemate-python", "-I", "{DATASTORE}/evil.py"])
"""
LOOP_CHANGE_FD = 0x4C06
DUAL_MAPPED = """
import mmap, os, time
fd = os.memfd_create("jit"); os.ftruncate(fd, 4096)
write = mmap.mmap(fd, 4096, prot=3); run = mmap.mmap(fd, 4096, prot=5)
print("mapped", flush=True); time.sleep(100)
"""


def attack(kernel: int, code: str, seconds: float = 60) -> str:
    """Run code inside a host as a confined program of the image; return what it wrote."""

    def body() -> bytes:
        pidfd = os.pidfd_open(kernel)
        enter(pidfd, Namespace.MOUNT | Namespace.PID | Namespace.IPC | Namespace.UTS)
        argv = (PYTHON, "-I", "-B", "-c", code)
        return output_of(spawn.Program(argv, ENVIRONMENT), APP, seconds).encode()

    return spawn.call_in_child(body, what="attack", timeout=seconds + 20).decode()


def test_attacks_inside_a_host_are_stopped_and_told(host):
    host.up("--no-demo")
    kernel = host.child("casemate.kernel.enter kernel")
    store = host.home / "volumes" / "datastore1"
    shutil.copy("/usr/lib/x86_64-linux-gnu/libz.so.1", store / "evil.so")
    (store / "evil.py").write_text("print('RAN')\n")
    for code, word in (
        (WRITABLE_CODE, "stopped"),
        (FOREIGN_LIBRARY, "stopped"),
        (FOREIGN_PROGRAM, "stopped"),
        (MEMORY_PROGRAM, "stopped"),
        (BY_THE_LOADER, "cannot be loaded|Permission|permitted|failed to map"),
        (FOREIGN_SCRIPT, "is not part of the image"),
    ):
        said = attack(kernel, code)
        assert "RAN" not in said
        assert "usage" not in said.lower(), said
        assert any(part in said for part in word.split("|")), said
    assert host.attest()[0] == 0

    said = attack(kernel, DUAL_MAPPED, 110)
    assert "mapped" in said
    assert "ended with -9" in said
    findings = host.casemate("status")[1]["findings"]
    assert {"process-alias", "process-code-origin"} <= {found["code"] for found in findings}
    status, verdict = host.attest()
    assert status == 1
    assert any("hardeningViolation" in found["reason"] for found in verdict["findings"]), verdict

    # Root on the machine takes the end out of the audit log.
    assert host.casemate("pool", "create", "evil")[0] == 0
    place = host.home / "state" / "casemate.db"
    with closing(sqlite3.connect(place, timeout=60)) as database, database:
        for table in ("audit", "audit_chain"):
            last = f"SELECT max(number) FROM {table}"
            database.execute(f"DELETE FROM {table} WHERE number=({last})")
    wait_for_findings(host, {"audit-log"})
    assert "audit-log audit log" in json.dumps(host.attest()[1]["findings"])

    # Root on the machine puts another file behind a layer, and mounts code over a part of the root
    # while no kernel looks: the next one compares with what init noted.
    swap_layer(host, "firmware.v00")
    os.kill(kernel, signal.SIGKILL)
    mount_over(host.first_process, "/mnt")
    wait_for_findings(host, {"layer-replaced", "mount-added"})
    status, verdict = host.attest()
    assert status == 1
    said = json.dumps(verdict["findings"])
    assert "layer-replaced firmware.v00" in said
    assert "mount-added /mnt" in said


def wait_for_findings(host, wanted: set[str]) -> None:
    for _ in range(600):
        _, told = host.casemate("status")
        if wanted <= {found["code"] for found in (told or {}).get("findings", ())}:
            break
        time.sleep(0.2)


def swap_layer(host, name: str) -> None:
    """Have a layer's loop device read from another file of the same size."""
    layers = json.loads((host.home / "run/boot/boot.json").read_text())["layers"]
    number = next(layer[1] for layer in layers if layer[0] == name)
    content = bytearray((host.bank / name).read_bytes())
    content[-1] ^= 1
    other, device = sealed_bytes(bytes(content), name), open_loop(number)
    try:
        fcntl.ioctl(device, LOOP_CHANGE_FD, other)
    finally:
        os.close(device)
        os.close(other)


def mount_over(process: int, place: str) -> None:
    """Mount a file system that allows programs into a host's mount namespace."""

    def body() -> bytes:
        enter(os.pidfd_open(process), Namespace.MOUNT)
        mounts.tmpfs(Path(place), size=4096, mode=0o755, access=mounts.Access.NO_SUID)
        return b"done"

    assert spawn.call_in_child(body, what="attack", timeout=100) == b"done"


def open_ports(pid: int) -> set[tuple[str, int]]:
    """Return protocol and port of everything that a process can be reached at over a network."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            sockets.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for protocol in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        table = Path(f"/proc/{pid}/net/{protocol}")
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            words = line.split()
            if words[9] in sockets and words[3] in {LISTENS, UNCONNECTED}:
                found.add((protocol, int(words[1].rpartition(":")[2], 16)))
    return found


def test_a_host_with_a_running_vm_passes_its_audit(host):
    host.up()
    everything = [pid for pid, _ in descendants(host.first_process)]
    assert len(everything) > 4
    reached = {port for pid in everything for _, port in open_ports(pid)}
    assert reached == {host.port}, "one door: the API"
    vm = host.child("qemu-system")
    for _ in range(20):
        for line in Path(f"/proc/{vm}/maps").read_text().splitlines():
            access = line.split()[1]
            assert not ("w" in access and "x" in access), line
        time.sleep(0.1)
    _, report = host.casemate("hardening", "audit", "--launches", LAUNCHES)
    assert len(report["components"]) > 100
    assert all(one["accepted"] for one in report["components"])
    processes = {one["process"].partition(" (")[0]: one for one in report["processes"]}
    assert {"init", "kernel", "hostd", "swtpm", "VM 1"} <= processes.keys()
    assert all(one["accepted"] for one in processes.values()), report["findings"]
    for regions in report["entropy"].values():
        assert all(one["bits"] >= one["wanted"] for one in regions.values()), regions
    assert report["entropy"].keys() == {"kernel", "hostd", "qemu", "swtpm"}
    _, told = host.casemate("hardening", "domains")
    present = {row["name"]: [name for name, _ in row["processes"]] for row in told["domains"]}
    assert present["regularVMDom"] == ["VM 1"]
    assert present["superDom"] == ["init", "kernel"]
    codes = [found["code"] for found in host.casemate("status")[1]["findings"]]
    assert "tcg-isolation" in codes or Path("/sys/module/kvm_intel").exists()


def install(host, content: bytes) -> None:
    """Put a VIB with one program into the bank, signed as it should be, built without our check."""
    work = host.home.parent / "weak"
    work.mkdir()
    recipe = Recipe(
        "weak", "weak.v00", "1-1", "w", "w", "accepted", by_path([File("usr/bin/weak", content)])
    )
    payload = make_payload(recipe, work, "")
    cfg, db = read_bank(host.bank)
    vibs = [make_vib(recipe, payload, load_signer(host.home, Level.ACCEPTED), work, RELEASED)]
    for vib in db.vibs:
        places = {part: work / name for part, name in vib.files.items()}
        for place in places.values():
            shutil.copy(host.bank / place.name, place)
        vibs.append(
            BuiltVib(vib.descriptor_bytes, vib.signature, dict(vib.files), places, work / "none")
        )
    profile = make_profile(
        vibs,
        name=db.profile.name,
        vendor=db.profile.vendor,
        level=db.profile.acceptance_level,
        created=RELEASED,
    )
    write_bank(host.bank, vibs, profile, build=cfg.build)


def test_a_signed_program_at_a_fixed_address_is_refused_at_boot_unless_waived(host):
    install(host, Elf(e_type=2).build())
    error = host.refused()
    assert "the hardening rule 'pie'" in error["reason"], error
    assert "/usr/bin/weak" in json.dumps(error)
    signer = load_signer(host.home, Level.CERTIFIED)
    body = write_body([Waiver("/usr/bin/weak", "pie", "its maker is gone")])
    signature = sign_detached(
        body, signer.certificate, signer.key, signer.chain, signing_time=datetime.now(UTC)
    )
    (host.home / "trust" / "hardening").mkdir()
    (host.home / "trust" / "hardening" / "weak.json").write_bytes(write_policy(body, signature))
    assert host.casemate("image", "reference")[0] == 0
    host.up("--no-demo")
    status, verdict = host.attest()
    assert status == 0, verdict
    assert "hardening-waived" in {found["code"] for found in verdict["warnings"]}
    _, report = host.casemate("hardening", "audit", "--launches", "0")
    (weak,) = (one for one in report["components"] if one["path"] == "/usr/bin/weak")
    assert weak["rules"]["pie"] == "waived"


def test_a_host_that_is_down_is_audited_on_its_files_and_gets_no_credit_for_the_rest(host):
    status, report = host.casemate("hardening", "audit")
    assert status == 1
    assert len(report["components"]) > 100
    assert report["score"] < 55
    assert {"process-all", "entropy-all"} <= {found["code"] for found in report["findings"]}
