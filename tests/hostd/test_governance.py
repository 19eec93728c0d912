"""Roles, permissions, accounts, options, sessions and lockdown over the API."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable

import pytest

from casemate.calls import admin as a
from casemate.hostd.methods.table import REGISTRY
from casemate.machine.facts import PowerState
from casemate.machine.governance import (
    LockdownFact,
    LockdownMode,
    PermissionFact,
    RoleFact,
    SessionFact,
)
from casemate.policy.options import LOG_LEVEL
from casemate.testing.fakefacts import BOOT_TIME
from casemate.testing.fakekernel import READER, USER
from casemate.vim25.values import MoRef

AUTH = MoRef("AuthorizationManager", "ha-authmgr")
ACCOUNTS = MoRef("HostLocalAccountManager", "ha-localacctmgr")
ACCESS = MoRef("HostAccessManager", "ha-host-access-manager")
AGENT = MoRef("OptionManager", "HostAgentSettings")
ADVANCED = MoRef("OptionManager", "ha-adv-options")
SESSIONS = MoRef("SessionManager", "ha-sessionmgr")
VM = MoRef("VirtualMachine", "1")
ROOT = '<entity type="Folder">ha-folder-root</entity>'


def permission(user: str, role: int) -> str:
    return (
        f"<permission><principal>{user}</principal><group>false</group>"
        f"<roleId>{role}</roleId><propagate>true</propagate></permission>"
    )


async def only_on_vm_1(host) -> None:
    host.kernel.state(PermissionFact("VirtualMachine", "1", READER, -1, propagate=True))
    host.kernel.retract(PermissionFact, f"Folder:ha-folder-root:{READER}")
    for _ in range(10_000):
        got = await host.root.call("RetrieveAllPermissions", AUTH)
        if f"ha-folder-root</entity><principal>{READER}" not in got.text:
            return
        await asyncio.sleep(0.005)
    raise AssertionError


async def shown(host, text: str, name: str = "info") -> None:
    """Wait until a task says it."""
    for _ in range(10_000):
        recent = await host.root.call("Fetch", TASKS, "<prop>recentTask</prop>")
        refs = re.findall(r'type="Task"[^>]*>([^<]+)<', recent.text)
        for ref in refs:
            got = await host.root.call("Fetch", MoRef("Task", ref), f"<prop>{name}</prop>")
            if text in got.text:
                return
        await asyncio.sleep(0.005)
    raise AssertionError(text)


def test_a_role_and_a_permission_give_what_they_say_and_no_more(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        privilege = "<privIds>VirtualMachine.Interact.PowerOn</privIds>"
        made = await host.root.call(
            "AddAuthorizationRole", AUTH, f"<name>operator</name>{privilege}"
        )
        role = int(re.search(r"<returnval>(\d+)<", made.text)[1])
        assert (await host.reader.call("PowerOnVM_Task", VM)).fault == "NoPermission"
        done = await host.root.call(
            "SetEntityPermissions",
            AUTH,
            f'<entity type="VirtualMachine">1</entity>{permission(READER, role)}',
        )
        assert done.status == 200
        assert (await host.reader.call("PowerOnVM_Task", VM)).status == 200
        other = await host.reader.call("PowerOnVM_Task", MoRef("VirtualMachine", "2"))
        assert other.fault == "NoPermission"
        assert (await host.reader.call("PowerOffVM_Task", VM)).fault == "NoPermission"

    play(story)


def test_who_has_rights_on_one_vm_sees_no_other(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        await only_on_vm_1(host)
        view = await host.reader.call(
            "CreateContainerView",
            MoRef("ViewManager", "ViewManager"),
            '<container type="Folder">ha-folder-root</container>'
            "<type>VirtualMachine</type><recursive>true</recursive>",
        )
        name = re.search(r'<returnval type="ContainerView">([^<]+)<', view.text)[1]
        got = await host.reader.call(
            "RetrieveProperties",
            MoRef("PropertyCollector", "ha-property-collector"),
            "<specSet><propSet><type>VirtualMachine</type><pathSet>name</pathSet></propSet>"
            f'<objectSet><obj type="ContainerView">{name}</obj><skip>true</skip>'
            '<selectSet xsi:type="TraversalSpec"><type>ContainerView</type><path>view</path>'
            "</selectSet></objectSet></specSet>",
        )
        assert got.text.count("<returnval>") == 1
        assert ">vm1<" in got.text
        read = await host.reader.call("Fetch", MoRef("VirtualMachine", "2"), "<prop>config</prop>")
        assert read.fault == "NoPermission"
        mine = await host.reader.call("Fetch", VM, "<prop>config</prop>")
        assert mine.status == 200

    play(story)


def test_permissions_are_shown_on_what_one_may_view_alone(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        host.kernel.state(PermissionFact("VirtualMachine", "2", "somebody", -1, propagate=True))
        await only_on_vm_1(host)
        for method, inner in (
            ("RetrieveAllPermissions", ""),
            ("RetrieveRolePermissions", "<roleId>-1</roleId>"),
        ):
            mine = (await host.reader.call(method, AUTH, inner)).text
            assert f"<principal>{READER}</principal>" in mine
            assert "somebody" not in mine
            assert '"VirtualMachine">2<' not in mine
            every = (await host.root.call(method, AUTH, inner)).text
            assert every.count("<returnval>") == 3
            assert "<principal>somebody</principal>" in every

    play(story)


def test_a_descriptor_tells_nothing_of_a_vm_that_the_session_may_not_read(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        await only_on_vm_1(host)
        for vm, fault in (("1", ""), ("2", "NoPermission")):
            got = await host.reader.call(
                "CreateDescriptor",
                MoRef("OvfManager", "ha-ovf-manager"),
                f'<obj type="VirtualMachine">{vm}</obj><cdp><name>n</name></cdp>',
            )
            assert (got.fault or "") == fault
            assert ("ovfDescriptor" in got.text) is (not fault)

    play(story)


@pytest.mark.parametrize(
    ("method", "this", "inner", "fault"),
    [
        ("AddAuthorizationRole", AUTH, "<name>Admin</name>", "AlreadyExists"),
        ("AddAuthorizationRole", AUTH, "<name>x</name><privIds>No.Such</privIds>", "InvalidArg"),
        (
            "UpdateAuthorizationRole",
            AUTH,
            "<roleId>-1</roleId><newName>x</newName>",
            "InvalidArgument",
        ),
        (
            "RemoveAuthorizationRole",
            AUTH,
            "<roleId>99</roleId><failIfUsed>true</failIfUsed>",
            "NotFound",
        ),
        ("RetrieveRolePermissions", AUTH, "<roleId>99</roleId>", "NotFound"),
        ("SetEntityPermissions", AUTH, ROOT + permission("nobody", -1), "UserNotFound"),
        ("SetEntityPermissions", AUTH, ROOT + permission("root", -2), "AuthMinimumAdmin"),
        (
            "RemoveEntityPermission",
            AUTH,
            f"{ROOT}<user>root</user><isGroup>false</isGroup>",
            "AuthMinimumAdminPermission",
        ),
        (
            "RemoveEntityPermission",
            AUTH,
            f"{ROOT}<user>nobody</user><isGroup>false</isGroup>",
            "NotFound",
        ),
        (
            "HasPrivilegeOnEntity",
            AUTH,
            f"{ROOT}<sessionId>guess</sessionId>",
            "InvalidArgument",
        ),
        ("CreateUser", ACCOUNTS, "<user><id>root</id></user>", "AlreadyExists"),
        ("UpdateUser", ACCOUNTS, "<user><id>nobody</id></user>", "UserNotFound"),
        ("RemoveUser", ACCOUNTS, "<userName>nobody</userName>", "UserNotFound"),
        ("QueryOptions", ADVANCED, "<name>No.Such</name>", "InvalidName"),
        (
            "UpdateOptions",
            ADVANCED,
            (
                '<changedValue><key>Security.AccountLockFailures</key><value xsi:type="xsd:long">0'
                "</value></changedValue>"
            ),
            "InvalidArgument",
        ),
        (
            "UpdateOptions",
            ADVANCED,
            (
                "<changedValue><key>VMkernel.Boot.execInstalledOnly</key>"
                '<value xsi:type="xsd:string">FALSE</value></changedValue>'
            ),
            "InvalidArgument",
        ),
        ("TerminateSession", SESSIONS, "<sessionId>guess</sessionId>", "NotFound"),
        ("UpdateLockdownExceptions", ACCESS, "<users>nobody</users>", "UserNotFound"),
    ],
)
def test_what_makes_no_sense_is_named_and_never_reaches_the_kernel(
    play: Callable[..., None], method: str, this: MoRef, inner: str, fault: str
) -> None:
    async def story(host) -> None:
        reply = await host.root.call(method, this, inner)
        assert reply.fault.startswith(fault), reply.text
        calls = REGISTRY.get(method).calls
        assert not [one for one in host.kernel.asked if isinstance(one, calls)]

    play(story)


def test_options_change_with_their_type_and_only_those_of_the_manager(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        change = (
            "<changedValue><key>Security.AccountLockFailures</key>"
            '<value xsi:type="xsd:long">7</value></changedValue>'
        )
        assert (await host.root.call("UpdateOptions", ADVANCED, change)).status == 200
        assert (await host.root.call("UpdateOptions", AGENT, change)).fault == "InvalidName"
        assert (await host.reader.call("UpdateOptions", ADVANCED, change)).fault == "NoPermission"
        got = await host.root.call("QueryOptions", ADVANCED, "<name>Security</name>")
        assert '<value xsi:type="xsd:long">7</value>' in got.text

    play(story)


def test_the_agents_options_are_the_hosts_too_and_its_log_says_as_much_as_it_is_told(
    play: Callable[..., None],
) -> None:
    def change(level: str) -> str:
        value = f'<value xsi:type="xsd:string">{level}</value>'
        return f"<changedValue><key>{LOG_LEVEL}</key>{value}</changedValue>"

    async def story(host) -> None:
        own = logging.getLogger("casemate")
        before = own.level
        try:
            for manager, level, number in (
                (ADVANCED, "verbose", logging.DEBUG),
                (AGENT, "error", logging.ERROR),
            ):
                assert (await host.root.call("UpdateOptions", manager, change(level))).status == 200
                got = await host.root.call(
                    "QueryOptions", ADVANCED, "<name>Config.HostAgent.</name>"
                )
                assert f">{level}</value>" in got.text
                await host.until(lambda number=number: own.level == number)
            wrong = await host.root.call("UpdateOptions", ADVANCED, change("loud"))
            assert wrong.fault == "InvalidArgument"
            shown = await host.root.call("Fetch", ADVANCED, "<prop>supportedOption</prop>")
            assert '"ChoiceOption"' in shown.text
        finally:
            own.setLevel(before)

    play(story)


def test_who_may_not_change_the_agent_does_not_through_the_hosts_options(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        rights = ("System.Anonymous", "System.View", "System.Read", "Host.Config.AdvancedConfig")
        host.kernel.state(RoleFact(7, "advanced", rights))
        host.kernel.state(PermissionFact("Folder", "ha-folder-root", READER, 7, propagate=True))

        def change(name: str, kind: str, value: str) -> str:
            typed = f'<value xsi:type="xsd:{kind}">{value}</value>'
            return f"<changedValue><key>{name}</key>{typed}</changedValue>"

        own = change("Security.AccountLockFailures", "long", "7")
        for _ in range(10_000):
            reply = await host.reader.call("UpdateOptions", ADVANCED, own)
            if reply.status == 200:
                break
            await asyncio.sleep(0.005)
        assert reply.status == 200
        agents = change(LOG_LEVEL, "string", "error")
        reply = await host.reader.call("UpdateOptions", ADVANCED, own + agents)
        assert reply.fault == "NoPermission"
        assert "Global.Settings" in reply.text

    play(story)


def test_a_terminated_session_is_out_at_once(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        listed = await host.root.call("Fetch", SESSIONS, "<prop>sessionList</prop>")
        rows = re.findall(r"<key>(\w+)</key><userName>(\w+)<", listed.text)
        key = next(key for key, user in rows if user == READER)
        own = next(key for key, user in rows if user == "root")
        refused = await host.root.call(
            "TerminateSession", SESSIONS, f"<sessionId>{own}</sessionId>"
        )
        assert refused.fault == "InvalidArgument"
        done = await host.root.call("TerminateSession", SESSIONS, f"<sessionId>{key}</sessionId>")
        assert done.status == 200
        listed = await host.root.call("Fetch", SESSIONS, "<prop>sessionList</prop>")
        assert key not in listed.text

    play(story)


def test_sessions_that_only_the_kernel_knows_are_listed_asked_about_and_ended(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        key = "ab" * 16
        host.kernel.state(SessionFact(key, READER, "console", BOOT_TIME))
        host.kernel.state(SessionFact("cd" * 16, "root", "console", BOOT_TIME, revoked=True))

        async def listed() -> str:
            return (await host.root.call("Fetch", SESSIONS, "<prop>sessionList</prop>")).text

        for _ in range(10_000):
            if key in await listed():
                break
            await asyncio.sleep(0.005)
        row = f"<key>{key}</key><userName>{READER}</userName><fullName>"
        assert row in await listed()
        assert "<ipAddress>console</ipAddress>" in await listed()
        assert "cd" * 16 not in await listed()
        for user, active in ((READER, "true"), ("root", "false")):
            asked = f"<sessionID>{key}</sessionID><userName>{user}</userName>"
            reply = await host.root.call("SessionIsActive", SESSIONS, asked)
            assert f">{active}</returnval>" in reply.text
        ended = await host.root.call("TerminateSession", SESSIONS, f"<sessionId>{key}</sessionId>")
        assert ended.status == 200
        assert key not in await listed()
        again = await host.root.call("TerminateSession", SESSIONS, f"<sessionId>{key}</sessionId>")
        assert again.fault == "NotFound"

    play(story)


def test_in_lockdown_only_exceptions_pass(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        await host.root.call("UpdateLockdownExceptions", ACCESS, "<users>root</users>")
        await host.root.call("ChangeLockdownMode", ACCESS, "<mode>lockdownNormal</mode>")
        for call in (
            host.reader.call("CurrentTime", MoRef("ServiceInstance", "ServiceInstance")),
            host.reader.call("Fetch", VM, "<prop>name</prop>"),
        ):
            assert (await call).fault == "NoPermission"
        shown = await host.root.call("Fetch", ACCESS, "<prop>lockdownMode</prop>")
        assert "lockdownNormal" in shown.text
        await host.root.call("ChangeLockdownMode", ACCESS, "<mode>lockdownDisabled</mode>")
        assert (await host.reader.call("Fetch", VM, "<prop>name</prop>")).status == 200

    play(story)


def test_every_privilege_that_is_demanded_is_listed(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        listed = await host.root.call("Fetch", AUTH, "<prop>privilegeList</prop>")
        for served in REGISTRY:
            assert f"<privId>{served.privilege}</privId>" in listed.text, served.name
            for call in served.calls:
                assert f"<privId>{call.privilege}</privId>" in listed.text, call

    play(story)


def test_privileges_are_told_per_session_entity_and_user(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        await only_on_vm_1(host)
        listed = await host.root.call("Fetch", SESSIONS, "<prop>sessionList</prop>")
        rows = re.findall(r"<key>(\w+)</key><userName>(\w+)<", listed.text)
        key = next(key for key, user in rows if user == READER)
        inner = (
            '<entity type="VirtualMachine">1</entity><entity type="VirtualMachine">2</entity>'
            f"<sessionId>{key}</sessionId><privId>VirtualMachine.Interact.PowerOn</privId>"
        )
        got = await host.root.call("HasPrivilegeOnEntities", AUTH, inner)
        assert re.findall(r"<isGranted>(\w+)<", got.text) == ["true", "false"]
        told = await host.root.call(
            "FetchUserPrivilegeOnEntities",
            AUTH,
            f'<entities type="VirtualMachine">2</entities><userName>{READER}</userName>',
        )
        assert "<privileges>" not in told.text

    play(story)


def test_a_password_never_comes_back(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        inner = "<user><id>new</id><password>Secret-Horse-9</password></user>"
        reply = await host.root.call("CreateUser", ACCOUNTS, inner)
        assert reply.status == 200
        assert [one for one in host.kernel.asked if isinstance(one, a.CreateAccount)]
        found = await host.root.call(
            "RetrieveUserGroups",
            MoRef("UserDirectory", "ha-user-directory"),
            "<searchStr>ne</searchStr><exactMatch>false</exactMatch><findUsers>true</findUsers>"
            "<findGroups>true</findGroups>",
        )
        assert "<principal>new</principal>" in found.text
        assert "Secret" not in found.text

    play(story)


EVENTS = MoRef("EventManager", "ha-eventmgr")
TASKS = MoRef("TaskManager", "ha-taskmgr")


async def power_on(host) -> None:
    assert (await host.root.call("PowerOnVM_Task", VM)).status == 200
    await shown(host, "<state>success</state>")


def test_events_tell_what_happened_to_whom_by_whom(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        await power_on(host)
        got = await host.root.call("QueryEvents", EVENTS, "<filter/>")
        assert 'xsi:type="VmPoweredOnEvent"' in got.text
        assert "User root@192.0.2.1 logged in" not in got.text.split("VmPoweredOnEvent")[1]
        only = await host.root.call(
            "QueryEvents",
            EVENTS,
            '<filter><entity><entity type="VirtualMachine">2</entity><recursion>self</recursion>'
            "</entity></filter>",
        )
        assert "Event" not in only.text.replace("QueryEventsResponse", "")
        below = await host.root.call(
            "QueryEvents",
            EVENTS,
            '<filter><entity><entity type="Folder">ha-folder-vm</entity><recursion>all</recursion>'
            "</entity><type>VmPoweredOnEvent</type></filter>",
        )
        assert below.text.count("<returnval") == 1

    play(story)


def test_a_collector_pages_through_everything_in_both_directions(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        await power_on(host)
        for number in range(25):
            message = f"<message>hello {number}</message>"
            await host.root.call("UpdateServiceMessage", SESSIONS, message)
        made = await host.root.call("CreateCollectorForEvents", EVENTS, "<filter/>")
        ref = MoRef("EventHistoryCollector", re.search(r">(session\[[^<]+)<", made.text)[1])
        await host.root.call("SetCollectorPageSize", ref, "<maxCount>5</maxCount>")
        latest = await host.root.call("Fetch", ref, "<prop>latestPage</prop>")
        newest = list(map(int, re.findall(r"<key>(\d+)</key>", latest.text)))
        assert len(newest) == 5
        assert newest == sorted(newest, reverse=True)
        seen: list[int] = []
        while True:
            page = await host.root.call("ReadNextEvents", ref, "<maxCount>7</maxCount>")
            keys = list(map(int, re.findall(r"<key>(\d+)</key>", page.text)))
            if not keys:
                break
            seen += keys
        assert seen == sorted(set(seen))
        assert set(newest) <= set(seen)
        await host.root.call("ResetCollector", ref)
        page = await host.root.call("ReadPreviousEvents", ref, "<maxCount>3</maxCount>")
        assert list(map(int, re.findall(r"<key>(\d+)</key>", page.text))) == seen[:-4:-1]
        await host.root.call("RewindCollector", ref)
        page = await host.root.call("ReadNextEvents", ref, "<maxCount>1</maxCount>")
        assert f"<key>{seen[0]}</key>" in page.text
        stranger = await host.reader.call("ReadNextEvents", ref, "<maxCount>1</maxCount>")
        assert stranger.fault == "ManagedObjectNotFound"
        await host.root.call("DestroyCollector", ref)
        gone = await host.root.call("ReadNextEvents", ref, "<maxCount>1</maxCount>")
        assert gone.fault == "ManagedObjectNotFound"

    play(story)


def test_tasks_are_collected_by_state_and_entity(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        await power_on(host)
        await host.root.call("PowerOnVM_Task", VM)
        made = await host.root.call("CreateCollectorForTasks", TASKS, "<filter/>")
        ref = MoRef("TaskHistoryCollector", re.search(r">(session\[[^<]+)<", made.text)[1])
        await shown(host, "<state>error</state>")
        page = await host.root.call("ReadNextTasks", ref, "<maxCount>10</maxCount>")
        assert page.text.count("<returnval>") == 2
        assert (await host.root.call("ReadNextTasks", ref, "<maxCount>0</maxCount>")).fault
        other = await host.root.call(
            "CreateCollectorForTasks",
            TASKS,
            '<filter><entity><entity type="VirtualMachine">2</entity><recursion>all</recursion>'
            "</entity></filter>",
        )
        ref = MoRef("TaskHistoryCollector", re.search(r">(session\[[^<]+)<", other.text)[1])
        page = await host.root.call("ReadNextTasks", ref, "<maxCount>10</maxCount>")
        assert "<returnval>" not in page.text

    play(story)


@pytest.mark.parametrize(
    ("method", "this", "one"),
    [
        ("QueryEvents", EVENTS, "<type>VmPoweredOnEvent</type>"),
        ("QueryEvents", EVENTS, "<eventTypeId>vim.event.VmEvent</eventTypeId>"),
        ("CreateCollectorForTasks", TASKS, "<state>error</state>"),
        (
            "CreateCollectorForEvents",
            EVENTS,
            "<userName><systemUser>true</systemUser>{}</userName>",
        ),
    ],
)
def test_a_filter_names_no_more_than_there_is(
    play: Callable[..., None], method: str, this: MoRef, one: str
) -> None:
    async def story(host) -> None:
        for count, good in ((2000, True), (2001, False)):
            many = "<userList>root</userList>" * count if "{}" in one else one * count
            inner = one.format(many) if "{}" in one else many
            reply = await host.root.call(method, this, f"<filter>{inner}</filter>")
            assert (reply.status == 200) is good, reply.text[:500]
            assert good or "2000" in reply.text

    play(story)


def test_events_are_found_by_a_type_that_theirs_extends(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        await power_on(host)
        for kinds, there in (
            ("<type>VmEvent</type>", True),
            ("<type>NoSuchEvent</type><type>Event</type>", True),
            ("<eventTypeId>vim.event.VmPoweredOnEvent</eventTypeId>", True),
            ("<type>HostEvent</type><type>vm</type>", False),
        ):
            reply = await host.root.call("QueryEvents", EVENTS, f"<filter>{kinds}</filter>")
            assert ('xsi:type="VmPoweredOnEvent"' in reply.text) is there, kinds

    play(story)


def test_logs_are_for_those_who_may(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        manager = MoRef("DiagnosticManager", "ha-diagnosticmgr")
        inner = "<key>kernel</key><start>5</start><lines>2</lines>"
        got = await host.root.call("BrowseDiagnosticLog", manager, inner)
        assert "<lineText>kernel line 5</lineText><lineText>kernel line 6</lineText>" in got.text
        assert (await host.reader.call("BrowseDiagnosticLog", manager, inner)).fault
        bad = await host.root.call("BrowseDiagnosticLog", manager, "<key>../x</key>")
        assert bad.fault == "InvalidArgument"

    play(story)


def test_what_a_vm_may_be_made_of_is_answered_whole(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        browser = MoRef("EnvironmentBrowser", "envbrowser-1")
        for name in (
            "QueryConfigOption",
            "QueryConfigOptionEx",
            "QueryConfigOptionDescriptor",
            "QueryConfigTarget",
        ):
            reply = await host.root.call(name, browser)
            assert reply.status == 200, reply.text
            assert "<returnval>" in reply.text

    play(story)


def test_who_has_one_vm_reads_of_nobody_elses_doings(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        host.kernel.state(PermissionFact("VirtualMachine", "2", READER, -2, propagate=True))
        host.kernel.retract(PermissionFact, f"Folder:ha-folder-root:{READER}")
        host.kernel.state(LockdownFact(LockdownMode.DISABLED, ("root",)))
        for number in ("1", "2"):
            await host.root.call("PowerOnVM_Task", MoRef("VirtualMachine", number))
        for number in ("1", "2"):
            await host.until(lambda n=number: host.kernel.vm(n).power is PowerState.POWERED_ON)
        for _ in range(10_000):
            told = (await host.reader.call("QueryEvents", EVENTS, "<filter/>")).text
            if "vm2 is powered on" in told:
                break
            await asyncio.sleep(0.01)
        assert "vm2 is powered on" in told
        assert "vm1" not in told
        assert "Lockdown" not in told
        assert f"<userName>{USER}</userName><ipAddress>" not in told
        every = (await host.root.call("QueryEvents", EVENTS, "<filter/>")).text
        assert "vm1 is powered on" in every
        assert "casemate.lockdown" in every

    play(story)


def test_a_question_of_everything_about_everything_is_refused(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        session = await host.reader.call("Fetch", SESSIONS, "<prop>currentSession</prop>")
        key = re.search(r"<key>([^<]*)</key>", session.text)[1]
        body = (
            '<entity type="Folder">ha-folder-root</entity>' * 1001
            + f"<sessionId>{key}</sessionId>"
            + "<privId>System.View</privId>" * 500
        )
        assert "answers" in (await host.reader.call("HasPrivilegeOnEntities", AUTH, body)).text

    play(story)


def test_what_a_user_says_is_an_event_of_the_object(play: Callable[..., None]) -> None:
    said = '<entity type="VirtualMachine">1</entity><msg>{}</msg>'

    async def story(host) -> None:
        refused = await host.reader.call("LogUserEvent", EVENTS, said.format("no"))
        assert refused.fault == "NoPermission"
        long = await host.root.call("LogUserEvent", EVENTS, said.format("x" * 1025))
        assert long.fault == "InvalidArgument"
        done = await host.root.call("LogUserEvent", EVENTS, said.format("moved &lt;here&gt;"))
        assert done.status == 200
        got = await host.root.call("QueryEvents", EVENTS, "<filter/>")
        assert got.text.count('xsi:type="GeneralUserEvent"') == 1
        assert "<message>moved &lt;here&gt;</message>" in got.text
        assert '<entity type="VirtualMachine">1</entity>' in got.text

    play(story)
