"""Files of unattended installations: what is understood, what is refused and not ignored."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from casemate.errors import CasemateError, FormatError, LimitError, NotSupportedError
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
    assert [note.partition(":")[0] for note in told.notes] == ["keyboard", "reboot"]


def test_the_first_disk_is_not_overwritten_unless_the_file_says_so():
    assert parse_kickstart(b"accepteula\ninstall --firstdisk") == Kickstart("", overwrite=False)


@pytest.mark.parametrize(
    "line",
    [
        "%firstboot --interpreter=busybox",
        "%post",
        "%pre",
        "rootpw secret",
        "rootpw --iscrypted $6$x$y",
        "network --bootproto=static --ip=192.0.2.1",
        "network --bootproto=dhcp --vlanid=5",
        "network",
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
    ],
)
def test_a_file_that_is_not_clear_installs_nothing(text):
    with pytest.raises(FormatError):
        parse_kickstart(text)


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
