"""Files of unattended installations: what is understood, what is refused and not ignored."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from casemate.errors import CasemateError, FormatError, LimitError, NotSupportedError
from casemate.formats.hostsettings import host_network
from casemate.formats.kickstart import MAX_SIZE, Kickstart, disk_name, parse_kickstart

WHOLE = b"""# a host
vmaccepteula
install --disk=/dev/nvme0n1 --overwritevmfs
network --bootproto=dhcp
keyboard 'US Default'
reboot
"""
WORDS = (
    *("accepteula", "install", "--firstdisk", "--disk=sda", "--overwritevmfs", "network", "#"),
    *("--bootproto=dhcp", "reboot", "keyboard", "%post", "rootpw", "\n", "\n", "\r", "\0", "é"),
)


def test_a_whole_file_says_where_and_what_was_ignored():
    told = parse_kickstart(WHOLE)
    assert (told.disk, told.overwrite) == ("nvme0n1", True)
    assert told.reboot
    assert [note.partition(":")[0] for note in told.notes] == ["keyboard"]


def test_the_first_disk_is_not_overwritten_unless_the_file_says_so():
    assert parse_kickstart(b"accepteula\ninstall --firstdisk") == Kickstart("", overwrite=False)


@pytest.mark.parametrize(
    "line",
    [
        "%firstboot --interpreter=busybox",
        "%post",
        "%pre",
        "rootpw --iscrypted $6$x$secret",
        "rootpw --iscrypted $argon2id$v=19$m=1024,t=1,p=1$c29tZXNhbHRzb21l$" + "A" * 43,
        "network --bootproto=dhcp --vlanid=5",
        "network --bootproto=dhcp --device=vmnic0",
        "upgrade --disk=sda",
        "include /vmfs/x.cfg",
        "install --firstdisk --novmfsondisk",
    ],
)
def test_what_the_host_would_lack_is_refused_with_its_line(line):
    with pytest.raises(NotSupportedError, match=r"^line 7: ") as caught:
        parse_kickstart(WHOLE + line.encode())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"install --firstdisk",
        b"accepteula",
        b"accepteula\ninstall",
        b"accepteula --yes\ninstall --firstdisk",
        b"accepteula\ninstall --firstdisk --disk=sda",
        b"accepteula\ninstall --firstdisk\ninstall --firstdisk",
        b"accepteula\ninstall --firstdisk=remote",
        b"accepteula\ninstall --disk",
        b"accepteula\ninstall --disk=",
        b"accepteula\ninstall --disk=../sda",
        b"accepteula\ninstall --firstdisk --forceunsupportedinstall",
        b"accepteula\nwipe\ninstall --firstdisk",
        b"accepteula\ninstall --disk=sd\xc3\xa4",
        b"#accepteula\ninstall --firstdisk",
        b"accepteula\ninstall --firstdisk\nrootpw",
        b"accepteula\ninstall --firstdisk\nrootpw --plaintext x",
        b"accepteula\ninstall --firstdisk\nrootpw one\nrootpw two",
        b"accepteula\ninstall --firstdisk\nreboot now",
        *(
            b"accepteula\ninstall --firstdisk\nnetwork " + options
            for options in (
                b"",
                b"--bootproto=bootp",
                b"--bootproto=dhcp --bootproto=dhcp",
                b"--bootproto=dhcp --ip=192.0.2.2 --netmask=255.255.255.0",
                b"--bootproto=dhcp --gateway=192.0.2.1",
                b"--bootproto=dhcp --hostname=-x",
                b"--bootproto=static",
                b"--bootproto=static --ip=192.0.2.2",
                b"--bootproto=static --ip=192.0.2.2 --netmask=255.0.255.0",
                b"--bootproto=static --ip=192.0.2.0 --netmask=255.255.255.0",
                b"--bootproto=static --ip=192.0.2.2 --netmask=255.255.255.0 --gateway=192.0.3.1",
                b"--bootproto=static --ip=224.0.0.1 --netmask=255.255.255.0",
                b"--bootproto=static --ip=192.0.2.2 --netmask=255.255.255.255",
            )
        ),
    ],
)
def test_a_file_that_is_not_clear_installs_nothing(text):
    with pytest.raises(FormatError):
        parse_kickstart(text)


def test_a_file_may_choose_password_name_and_address_of_the_host():
    told = parse_kickstart(
        WHOLE.replace(b"network --bootproto=dhcp", b"")
        + b"rootpw Wald#Wiese7 # of all hosts\nnetwork --bootproto=static --ip=192.0.2.2"
        b" --netmask=255.255.254.0 --gateway=192.0.3.1 --hostname=esx1.lab"
    )
    assert told.password == "Wald#Wiese7"
    assert told.network == host_network("esx1.lab", "192.0.2.2", "23", "192.0.3.1")
    assert [note.partition(":")[0] for note in told.notes] == ["keyboard"]
    assert "Wald" not in repr(told)


def test_a_name_server_is_refused_since_the_host_would_not_ask_it():
    with pytest.raises(NotSupportedError, match="line 4: network: --nameserver: the host"):
        parse_kickstart(
            WHOLE.replace(b"--bootproto=dhcp", b"--bootproto=dhcp --nameserver=192.0.2.9")
        )


def test_a_password_may_come_as_the_hash_that_the_host_keeps():
    hashed = "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHRzb21l$" + "A" * 43
    told = parse_kickstart(WHOLE + f"rootpw --iscrypted {hashed}".encode())
    assert (told.password, told.password_hash) == ("", hashed)


def test_a_file_too_large_is_refused_before_it_is_read():
    with pytest.raises(LimitError):
        parse_kickstart(WHOLE + b"#" * MAX_SIZE)


@given(st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join))
@example("accepteula \n install --disk=sda")
def test_any_file_gives_a_plain_name_or_an_error_of_ours(text):
    try:
        told = parse_kickstart(text.encode())
    except CasemateError:
        return
    assert told.disk == "" or disk_name(told.disk) == told.disk
    assert not told.overwrite or "--overwritevmfs" in text
