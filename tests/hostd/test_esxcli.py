"""esxcli over the API: the same table as the command's, with the rights of the session."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import pytest

from casemate.calls.admin import SetOption
from casemate.calls.encryption import RecoveryList, RecoveryReply, RecoveryRotate
from casemate.calls.messages import Empty, PowerOff
from casemate.calls.software import BootOptionSet, SoftwareChange
from casemate.hostd.objects.fixed import EXECUTER, TYPE_MANAGER
from casemate.machine.facts import PowerState
from casemate.vim25.values import MoRef

HOST = MoRef("HostSystem", "ha-host")
INFO = "ha-dynamic-type-manager-local-cli-cliinfo"


async def execute(client, moid: str, method: str, **values: str) -> str:
    arguments = "".join(
        f"<argument><name>{name}</name><val>{escape(f'<{name}>{escape(value)}</{name}>')}</val>"
        "</argument>"
        for name, value in values.items()
    )
    return (
        await client.call(
            "ExecuteSoap",
            EXECUTER,
            f"<moid>{moid}</moid><version>urn:vim25/5.0</version><method>{method}</method>{arguments}",
        )
    ).text


async def esxcli(client, command: str, **values: str) -> str:
    *path, name = command.split()
    method = ".".join(("vim.EsxCLI", *path, name))
    return await execute(client, "ha-cli-handler-" + "-".join(path), method, **values)


def inner(text: str, tag: str = "response") -> ET.Element:
    return ET.fromstring(unescape(re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]))


def cells(text: str) -> dict[str, str]:
    return {one.tag.partition("}")[2]: one.text or "" for one in inner(text)}


def test_a_client_finds_the_executer_and_what_a_namespace_offers(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        found = await host.root.call("RetrieveManagedMethodExecuter", HOST)
        assert f'type="{EXECUTER.type}">{EXECUTER.value}<' in found.text
        assert (await host.root.call("RetrieveDynamicTypeManager", HOST)).status == 200
        told = await execute(
            host.root, INFO, "vim.CLIInfo.FetchCLIInfo", typeName="vim.EsxCLI.software.vib"
        )
        info = inner(told)
        methods = {one.findtext("name"): one for one in info.iter("method")}
        assert {"get", "list", "install", "remove", "update"} <= set(methods)
        listed = {one.findtext("name"): one for one in methods["list"].iter("param")}
        assert listed["rebootingimage"].findtext("flag") == "true"
        hints = {
            one.findtext("key"): one.findtext("value") for one in methods["list"].iter("hints")
        }
        assert hints["formatter"] == "table"
        assert "Acceptance Level" in hints["fields:VIBSummaryExt"]

    play(story)


def test_answers_are_those_of_the_command(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        version = cells(await esxcli(host.root, "system version get"))
        assert version["Version"] == "0.1.0"
        trusted = cells(await esxcli(host.root, "hardware trustedboot get"))
        assert trusted == {"DrtmEnabled": "false", "TpmPresent": "true"}
        platform = cells(await esxcli(host.root, "hardware platform get"))
        assert platform["VendorName"] == "Fake Systems"
        uptime = inner(await esxcli(host.root, "system stats uptime get"))
        assert int(uptime.text) > 0
        options = inner(await esxcli(host.root, "system settings advanced list"))
        assert len(options) > 4
        one = cells(
            await esxcli(
                host.root, "system settings advanced list", option="/Security/AccountUnlockTime"
            )
        )
        assert (one["IntValue"], one["Type"]) == ("900", "integer")
        listed = inner(await esxcli(host.root, "esxcli command list"))
        commands = {tuple(part.text for part in row) for row in listed}
        assert ("esxcli.command", "list") in commands
        assert ("software.vib", "install") in commands
        clock = inner(await esxcli(host.root, "hardware clock get"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", clock.text)
        (processor, *_) = inner(await esxcli(host.root, "hardware cpu list"))
        assert processor.findtext("{*}Id") == "0"

    play(story)


def test_what_is_changed_is_asked_of_the_kernel_as_the_session(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        fact = host.kernel.vm("1")
        host.kernel.state(replace(fact, power=PowerState.POWERED_ON, pid=77))
        host.kernel.answer(BootOptionSet, lambda _: Empty())
        before = len(host.kernel.asked)
        for _ in range(5000):
            if "77" in await esxcli(host.root, "vm process list"):
                break
            await asyncio.sleep(0.005)
        await esxcli(host.root, "vm process kill", type="soft", worldid="77")
        await esxcli(
            host.root, "system settings kernel set", setting="apiCompatibility", value="TRUE"
        )
        await esxcli(
            host.root,
            "system settings advanced set",
            option="/Security/AccountUnlockTime",
            intvalue="60",
        )
        kinds = (PowerOff, BootOptionSet, SetOption)
        asked = [one for one in host.kernel.asked[before:] if isinstance(one, kinds)]
        assert [type(one) for one in asked] == list(kinds)
        assert all(one.session for one in asked)
        assert (asked[0].vm, asked[1].value, asked[2].value) == ("1", "TRUE", "60")
        told = await esxcli(host.root, "vm process kill", type="soft", worldid="78")
        assert "No running virtual machine" in told
        refused = await esxcli(host.reader, "vm process kill", type="soft", worldid="77")
        assert "Permission" in refused
        assert len([one for one in host.kernel.asked[before:] if isinstance(one, kinds)]) == len(
            kinds
        )

    play(story)


def test_the_recovery_key_of_the_state_is_told_to_who_may_change_the_host_alone(
    play: Callable[..., None],
) -> None:
    """A machine that boots by itself has no command line: the API is where its owner asks."""

    async def story(host) -> None:
        key = RecoveryReply("6ba7b810-9dad-11d1-80b4-00c04fd430c8", "111111-222222")
        for kind, command in ((RecoveryList, "list"), (RecoveryRotate, "rotate")):
            host.kernel.answer(kind, lambda _: key)
            told = await esxcli(host.root, f"system settings encryption recovery {command}")
            assert key.key in told
            before = len(host.kernel.asked)
            told = await esxcli(host.reader, f"system settings encryption recovery {command}")
            assert "Permission" in told
            assert key.key not in told
            assert not [one for one in host.kernel.asked[before:] if isinstance(one, kind)]

    play(story)


@pytest.mark.parametrize(
    ("command", "values", "sentence"),
    [
        ("system nothing get", {}, "Unknown command"),
        ("system version", {}, "required: COMMAND"),
        ("software vib list", {"shell": "1"}, "no parameter shell"),
        ("system module set", {"module": "x", "enabled": "perhaps"}, "neither true nor false"),
        ("system settings advanced list", {"option": "--help"}, "no option"),
        ("system module get", {}, "required"),
    ],
)
def test_what_cannot_be_done_is_a_fault_with_its_reason(
    command: str, values: dict[str, str], sentence: str, play: Callable[..., None]
) -> None:
    async def story(host) -> None:
        told = await esxcli(host.root, command, **values)
        said = [one.text for one in inner(told, "faultDetail")]
        assert re.search(sentence, said[0]), said

    play(story)


def test_a_reader_changes_no_software(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        before = len(host.kernel.asked)
        told = await esxcli(host.reader, "software vib remove", vibname="x")
        assert "NoPermission" in told or "Permission" in told
        assert not [o for o in host.kernel.asked[before:] if isinstance(o, SoftwareChange)]
        nobody = await esxcli(host.anonymous, "system version get")
        assert "NotAuthenticated" in nobody

    play(story)


@pytest.mark.parametrize(
    "value",
    ["<a", "<b>x</b>", "<option><b/></option>", "<!DOCTYPE a><option>x</option>", "x" * 20_000],
)
def test_an_argument_is_an_element_of_its_name_or_refused(
    value: str, play: Callable[..., None]
) -> None:
    async def story(host) -> None:
        reply = await host.root.call(
            "ExecuteSoap",
            EXECUTER,
            "<moid>ha-cli-handler-system-settings-advanced</moid><version>v</version>"
            "<method>vim.EsxCLI.system.settings.advanced.list</method>"
            f"<argument><name>option</name><val>{escape(value)}</val></argument>",
        )
        assert "faultDetail" in reply.text

    play(story)


TYPE_SPACE = "DynamicTypeMgr"


async def described(client, method: str, spec: str = "", **parts: str) -> list[ET.Element]:
    """Ask for objects or types of esxcli, filtered or all."""
    fields = "".join(f"<{name}>{value}</{name}>" for name, value in parts.items())
    given = f'<filterSpec xsi:type="{TYPE_SPACE}{spec}">{fields}</filterSpec>' if spec else ""
    reply = await client.call(f"{TYPE_SPACE}{method}", TYPE_MANAGER, given)
    assert reply.status == 200, reply.text
    return ET.fromstring(reply.text).findall(".//{urn:vim25}returnval")


def texts(found: ET.Element, path: str) -> list[str]:
    steps = "/".join(f"{{urn:vim25}}{step}" for step in path.split("/"))
    return [one.text or "" for one in found.findall(steps)]


def test_a_client_that_asks_first_is_told_which_objects_and_types_there_are(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        everything = await described(host.root, "QueryMoInstances")
        objects = {texts(one, "id")[0]: texts(one, "moType")[0] for one in everything}
        assert objects["ha-cli-handler-software-vib"] == "vim.EsxCLI.software.vib"
        assert objects[INFO] == "vim.CLIInfo"
        (one,) = await described(
            host.root, "QueryMoInstances", "MoFilterSpec", id="ha-cli-handler-software-vib"
        )
        assert texts(one, "moType") == ["vim.EsxCLI.software.vib"]
        (types,) = await described(
            host.root, "QueryTypeInfo", "TypeFilterSpec", typeSubstr="software.vib"
        )
        kinds = types.findall("{urn:vim25}managedTypeInfo")
        vib = next(one for one in kinds if texts(one, "name") == ["vim.EsxCLI.software.vib"])
        assert {"list", "install", "remove"} <= set(texts(vib, "method/name"))
        assert "VimEsxCLIsoftwareviblist" in texts(vib, "method/wsdlName")
        install = next(
            one for one in vib.findall("{urn:vim25}method") if texts(one, "name") == ["install"]
        )
        assert {"viburl", "dryrun"} <= set(texts(install, "paramTypeInfo/name"))
        assert "string[]" in texts(install, "paramTypeInfo/type")
        data = types.find("{urn:vim25}dataTypeInfo")
        assert texts(data, "wsdlName") == ["VimEsxCLIsoftwarevibVIBSummaryExt"]
        assert "AcceptanceLevel" in texts(data, "property/name")
        assert await described(host.root, "QueryMoInstances", "MoFilterSpec", id="x") == []

    play(story)


def test_nat_of_a_switch_is_set_and_shown_over_the_api(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        place = "network vswitch standard nat"
        values = {"vswitchname": "vSwitch0", "enabled": "true", "network": "10.7.0.0/24"}
        assert "NoPermission" in await esxcli(host.reader, f"{place} set", **values)
        await esxcli(host.root, f"{place} set", **values)
        for _ in range(10_000):
            shown = cells(await esxcli(host.root, f"{place} get", vswitchname="vSwitch0"))
            if shown["Enabled"] == "true":
                break
            await asyncio.sleep(0.005)
        assert shown["Network"] == "10.7.0.0/24"

    play(story)
