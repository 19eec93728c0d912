"""What esxcli prints, by formatter; text of strangers never acts on the terminal."""

from __future__ import annotations

import csv
import io
import json
from xml.etree import ElementTree as ET

import pytest

from casemate.calls.esxcli.answer import Answer
from casemate.cli.esxcli import build_parser, say
from casemate.cli.esxcli_output import render
from casemate.errors import AcceptanceError, DigestError, FormatError, HostError, NotFoundError

ROWS = [
    {"Name": "one", "Is Loaded": True, "Size": 7, "Tags": ("a", "b")},
    {"Name": "<two>&", "Is Loaded": False, "Size": 0, "Tags": ()},
]
TABLE = Answer(ROWS, "table", structure="Module")


def test_a_table_is_aligned_as_esxi_does():
    assert render(TABLE) == (
        "Name    Is Loaded  Size  Tags\n"
        "------  ---------  ----  ----\n"
        "one     true       7     a, b\n"
        "<two>&  false      0\n"
    )


def test_blocks_stand_below_their_headers():
    answer = Answer(ROWS[:1], headers=["Installation Result"])
    assert render(answer) == (
        "Installation Result\n   Name: one\n   Is Loaded: true\n   Size: 7\n   Tags: a, b\n"
    )


def test_tools_get_what_they_can_parse():
    assert json.loads(render(TABLE, "json"))[1] == {
        "Name": "<two>&",
        "IsLoaded": False,
        "Size": 0,
        "Tags": [],
    }
    rows = list(csv.reader(io.StringIO(render(TABLE, "csv"))))
    assert [row[:4] for row in rows[:2]] == [
        ["Name", "IsLoaded", "Size", "Tags"],
        ["one", "true", "7", "a,b"],
    ]
    space = "{http://www.vmware.com/Products/ESX/5.0/esxcli}"
    root = ET.fromstring(render(TABLE, "xml"))
    fields = root.findall(f".//{space}structure[2]/{space}field")
    assert [(f.get("name"), f[0].text) for f in fields][:2] == [
        ("Name", "<two>&"),
        ("IsLoaded", "false"),
    ]
    assert "Module[1].Name.string=<two>&\n" in render(TABLE, "keyvalue")


@pytest.mark.parametrize("formatter", ["", "json", "csv", "xml", "keyvalue"])
def test_a_single_value_has_a_form_everywhere(formatter):
    assert "PartnerSupported" in render(Answer((), "text", text="PartnerSupported"), formatter)


@pytest.mark.parametrize("formatter", ["", "xml", "keyvalue", "json"])
def test_escapes_in_a_vib_do_not_reach_the_terminal(formatter):
    evil = Answer([{"Name": "\x1b[2Jgone\u202e"}], "table")
    assert "\x1b" not in render(evil, formatter)
    assert "\u202e" not in render(evil, formatter)


@pytest.mark.parametrize(
    "words",
    [
        "software vib list",
        "software vib get -n x --rebooting-image",
        "software vib install -v /tmp/x.vib --dry-run --force --no-sig-check --no-live-install",
        "software vib install -d /tmp/d.zip -n a -n b",
        "software vib update -d /tmp/d.zip",
        "software vib remove -n x",
        "software vib signature verify",
        "software profile get",
        "software profile validate",
        "software profile install -d d.zip -p Name",
        "software profile update --depot d.zip --profile Name",
        "software acceptance get",
        "software acceptance set --level PartnerSupported",
        "software sources vib list -d d.zip",
        "system module list",
        "system module get -m hostd",
        "system settings kernel list -o execInstalledOnly",
        "system version get",
        "hardware tpm get",
        "hardware trustedboot get",
        "hardware cpu global get",
        "hardware memory get",
        "vm process list",
        "vm process kill -t soft -w 7",
        "esxcli command list",
        "hardware cpu list",
        "hardware clock get",
        "system time get",
        "system settings kernel set -s apiCompatibility -v TRUE",
        "system settings encryption get",
        "system settings encryption set --require-exec-installed-only=T --require-secure-boot=T",
        "system settings encryption set --mode=TPM -e F",
        "system settings encryption recovery list",
        "system settings advanced set -o /Security/AccountUnlockTime -i 60",
        "system settings advanced set -o /Config/Etc/motd -s hello",
        "system settings advanced set -o /Config/Etc/motd -d",
    ],
)
def test_what_administrators_type_is_understood(words):
    assert callable(build_parser().parse_args(words.split()).run)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            AcceptanceError("VIB x's level is community.", code="level-too-low", component="x"),
            "AcceptanceConfigError",
        ),
        (DigestError("It is not it.", code="payload-changed", component="x"), "InstallationError"),
        (FormatError("A path leaves.", code="tar-path", component="x"), "InstallationError"),
        (NotFoundError("[NoMatchError] No VIB.", code="no-match"), "NoMatchError"),
        (HostError("The disk is full."), ""),
    ],
)
def test_errors_have_esxis_names(error, said, capsys):
    say(error)
    told = capsys.readouterr().err
    assert told.count(f"[{said}]") == bool(said)
    assert ("Please refer to the log file for more details." in told) == bool(said)
    assert error.reason in told
    assert error.remedy in told
