"""What Terraform's provider and PowerCLI send first, as their public sources and documents say.

Neither can be had from a registry: these are their calls with their values and their way of
writing XML, from logging in to a VM that runs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from casemate.machine.facts import PowerState, VmFact
from casemate.testing.fakekernel import PASSWORD, USER
from casemate.testing.soapclient import SoapClient

XSI = 'xmlns:XMLSchema-instance="http://www.w3.org/2001/XMLSchema-instance"'
COLLECTOR = '<_this type="PropertyCollector">ha-property-collector</_this>'
GO = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>'
    '<{name} xmlns="urn:vim25">{inner}</{name}></Body></Envelope>'
)
NET = (
    '<?xml version="1.0" encoding="utf-8"?>'
    '<soap:Envelope xmlns:soap="http://schemas.xmlsoap.org/soap/envelope/"'
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    ' xmlns:xsd="http://www.w3.org/2001/XMLSchema"><soap:Body>'
    '<{name} xmlns="urn:vim25">{inner}</{name}></soap:Body></soap:Envelope>'
)


class Caller:
    """Calls in one client's way of writing; every answer is to be a good one."""

    def __init__(self, client: SoapClient, form: str, action: str) -> None:
        self._client = client
        self._form = form
        client.action, client.cookie = action, ""

    async def __call__(self, name: str, inner: str) -> str:
        body = self._form.format(name=name, inner=inner)
        reply = await self._client.post(body.encode())
        assert reply.status == 200, (name, reply.text)
        return reply.text

    async def properties(self, kind: str, key: str, *paths: str) -> str:
        """Read properties of one object; none named: all."""
        wanted = "".join(f"<pathSet>{path}</pathSet>" for path in paths) or "<all>true</all>"
        return await self(
            "RetrieveProperties",
            f"{COLLECTOR}<specSet><propSet><type>{kind}</type>{wanted}</propSet>"
            f'<objectSet><obj type="{kind}">{key}</obj></objectSet></specSet>',
        )

    async def done(self, started: str) -> str:
        """Wait for a task as both do: with a filter of its info. Returns the last info."""
        task = re.search(r'type="Task"[^>]*>([^<]+)<', started)
        assert task is not None, started
        made = await self("CreatePropertyCollector", COLLECTOR)
        own = re.search(r"<returnval[^>]*>([^<]+)<", made)
        assert own is not None
        this = f'<_this type="PropertyCollector">{own[1]}</_this>'
        await self(
            "CreateFilter",
            f"{this}<spec><propSet><type>Task</type><pathSet>info</pathSet></propSet>"
            f'<objectSet><obj type="Task">{task[1]}</obj></objectSet></spec>'
            "<partialUpdates>false</partialUpdates>",
        )
        version = ""
        for _ in range(100):
            got = await self("WaitForUpdatesEx", f"{this}<version>{version}</version>")
            assert ">error</state>" not in got, got
            if ">success</state>" in got:
                await self("DestroyPropertyCollector", this)
                return got
            found = re.search(r"<version>([^<]*)<", got)
            assert found is not None
            version = found[1]
        raise AssertionError(started)


def machine(host, name: str) -> VmFact:
    return next(one for one in host.kernel.all(VmFact) if one.config.name == name)


TERRAFORM_VM = f"""\
<name>tf</name><version>vmx-19</version><uuid></uuid><guestId>debian11_64Guest</guestId>\
<annotation></annotation><files><vmPathName>[datastore1]</vmPathName></files>\
<tools><afterPowerOn>true</afterPowerOn><afterResume>true</afterResume>\
<beforeGuestStandby>true</beforeGuestStandby><beforeGuestShutdown>true</beforeGuestShutdown>\
<beforeGuestReboot>false</beforeGuestReboot><toolsUpgradePolicy>manual</toolsUpgradePolicy>\
<syncTimeWithHostAllowed>true</syncTimeWithHostAllowed>\
<syncTimeWithHost>false</syncTimeWithHost></tools>\
<flags><enableLogging>true</enableLogging><htSharing>any</htSharing>\
<diskUuidEnabled>false</diskUuidEnabled><virtualMmuUsage>automatic</virtualMmuUsage>\
<virtualExecUsage>hvAuto</virtualExecUsage><vvtdEnabled>false</vvtdEnabled>\
<vbsEnabled>false</vbsEnabled></flags>\
<powerOpInfo></powerOpInfo><numCPUs>2</numCPUs><numCoresPerSocket>1</numCoresPerSocket>\
<memoryMB>1024</memoryMB><memoryHotAddEnabled>false</memoryHotAddEnabled>\
<cpuHotAddEnabled>false</cpuHotAddEnabled><cpuHotRemoveEnabled>false</cpuHotRemoveEnabled>\
<deviceChange {XSI} XMLSchema-instance:type="VirtualDeviceConfigSpec"><operation>add</operation>\
<device XMLSchema-instance:type="ParaVirtualSCSIController"><key>-200</key>\
<controllerKey>100</controllerKey><busNumber>0</busNumber><hotAddRemove>true</hotAddRemove>\
<sharedBus>noSharing</sharedBus><scsiCtlrUnitNumber>7</scsiCtlrUnitNumber></device></deviceChange>\
<deviceChange {XSI} XMLSchema-instance:type="VirtualDeviceConfigSpec"><operation>add</operation>\
<fileOperation>create</fileOperation><device XMLSchema-instance:type="VirtualDisk">\
<key>-201</key><backing XMLSchema-instance:type="VirtualDiskFlatVer2BackingInfo">\
<fileName></fileName><diskMode>persistent</diskMode><split>false</split>\
<writeThrough>false</writeThrough><thinProvisioned>true</thinProvisioned>\
<eagerlyScrub>false</eagerlyScrub><sharing>sharingNone</sharing></backing>\
<controllerKey>-200</controllerKey><unitNumber>0</unitNumber>\
<capacityInKB>1048576</capacityInKB><capacityInBytes>1073741824</capacityInBytes>\
<storageIOAllocation><limit>-1</limit><shares><shares>0</shares><level>normal</level></shares>\
<reservation>0</reservation></storageIOAllocation></device></deviceChange>\
<deviceChange {XSI} XMLSchema-instance:type="VirtualDeviceConfigSpec"><operation>add</operation>\
<device XMLSchema-instance:type="VirtualVmxnet3"><key>-202</key>\
<backing XMLSchema-instance:type="VirtualEthernetCardNetworkBackingInfo">\
<deviceName>VM Network</deviceName><network type="Network">HaNetwork-VM Network</network></backing>\
<connectable><migrateConnect></migrateConnect><startConnected>true</startConnected>\
<allowGuestControl>true</allowGuestControl><connected>true</connected></connectable>\
<controllerKey>100</controllerKey><unitNumber>7</unitNumber><addressType>generated</addressType>\
<resourceAllocation><reservation>0</reservation><share><shares>50</shares><level>normal</level>\
</share><limit>-1</limit></resourceAllocation></device></deviceChange>\
<cpuAllocation><reservation>0</reservation><limit>-1</limit><shares><shares>2000</shares>\
<level>normal</level></shares></cpuAllocation>\
<memoryAllocation><reservation>0</reservation><limit>-1</limit><shares><shares>10240</shares>\
<level>normal</level></shares></memoryAllocation>\
<swapPlacement>inherit</swapPlacement>\
<bootOptions><bootDelay>0</bootDelay><enterBIOSSetup>false</enterBIOSSetup>\
<efiSecureBootEnabled>false</efiSecureBootEnabled><bootRetryEnabled>false</bootRetryEnabled>\
<bootRetryDelay>10000</bootRetryDelay></bootOptions>\
<firmware>bios</firmware><nestedHVEnabled>false</nestedHVEnabled><vPMCEnabled>false</vPMCEnabled>\
<latencySensitivity><level>normal</level></latencySensitivity>\
<memoryReservationLockedToMax>false</memoryReservationLockedToMax>"""


def test_terraform_plans_makes_finds_and_changes_a_vm(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        call = Caller(host.anonymous, GO, "urn:vim25/8.0.2.0")
        this = '<_this type="ServiceInstance">ServiceInstance</_this>'
        about = await call("RetrieveServiceContent", this)
        assert "<apiType>HostAgent</apiType>" in about
        await call(
            "Login",
            f'<_this type="SessionManager">ha-sessionmgr</_this><userName>{USER}</userName>'
            f"<password>{PASSWORD}</password><locale>en_US</locale>",
        )
        await call.properties("SessionManager", "ha-sessionmgr", "currentSession")
        # The data sources: host, its compute resource, what a VM may be made of.
        assert "ha-compute-res" in await call.properties("HostSystem", "ha-host", "parent")
        resource = ("resourcePool", "environmentBrowser", "datastore", "network")
        got = await call.properties("ComputeResource", "ha-compute-res", *resource)
        browser = re.search(r'type="EnvironmentBrowser"[^>]*>([^<]+)<', got)
        assert browser is not None
        this = f'<_this type="EnvironmentBrowser">{browser[1]}</_this>'
        chosen = '<host type="HostSystem">ha-host</host>'
        option = await call("QueryConfigOption", f"{this}<key>vmx-19</key>{chosen}")
        for kind in ("PCIController", "IDEController", "MachineVideoCard"):
            assert f'"Virtual{kind}"' in option
        guest = f"<spec>{chosen}<guestId>debian11_64Guest</guestId></spec>"
        assert "linuxGuest" in await call("QueryConfigOptionEx", this + guest)
        # The resource: made, read whole, found again by its UUID, changed, started.
        made = await call(
            "CreateVM_Task",
            f'<_this type="Folder">ha-folder-vm</_this><config>{TERRAFORM_VM}</config>'
            f'<pool type="ResourcePool">ha-root-pool</pool>{chosen}',
        )
        assert 'type="VirtualMachine"' in await call.done(made)
        fact = machine(host, "tf")
        whole = await call.properties("VirtualMachine", fact.vm)
        assert fact.config.uuid in whole
        asked = f"<uuid>{fact.config.uuid}</uuid><vmSearch>true</vmSearch>"
        this = '<_this type="SearchIndex">ha-searchindex</_this>'
        found = await call("FindByUuid", f"{this}{asked}<instanceUuid>false</instanceUuid>")
        assert f">{fact.vm}</returnval>" in found
        version = re.search(r"<changeVersion>([^<]+)<", whole)
        assert version is not None
        vm = f'<_this type="VirtualMachine">{fact.vm}</_this>'
        spec = f"<changeVersion>{version[1]}</changeVersion><numCPUs>4</numCPUs>"
        await call.done(await call("ReconfigVM_Task", f"{vm}<spec>{spec}</spec>"))
        assert machine(host, "tf").config.cpus == 4
        await call.done(await call("PowerOnVM_Task", f"{vm}{chosen}"))
        guest = await call.properties("VirtualMachine", fact.vm, "guest.net", "guest.ipAddress")
        assert "missingSet" not in guest
        await call.done(await call("PowerOffVM_Task", vm))
        await call.done(await call("Destroy_Task", vm))

    play(story)


def chained(name: str, kind: str, path: str, *following: str) -> str:
    more = "".join(f"<selectSet><name>{one}</name></selectSet>" for one in following)
    return (
        f'<selectSet xsi:type="TraversalSpec"><name>{name}</name><type>{kind}</type>'
        f"<path>{path}</path><skip>false</skip>{more}</selectSet>"
    )


IN_FOLDERS = ("dcToHf", "dcToVmf", "crToH", "crToRp")
EVERYTHING = "".join(
    (
        chained("visitFolders", "Folder", "childEntity", "visitFolders", *IN_FOLDERS),
        chained("dcToHf", "Datacenter", "hostFolder", "visitFolders"),
        chained("dcToVmf", "Datacenter", "vmFolder", "visitFolders"),
        chained("crToH", "ComputeResource", "host", "HToVm"),
        chained("crToRp", "ComputeResource", "resourcePool", "rpToRp", "rpToVm"),
        chained("rpToRp", "ResourcePool", "resourcePool", "rpToRp", "rpToVm"),
        chained("HToVm", "HostSystem", "vm"),
        chained("rpToVm", "ResourcePool", "vm"),
    )
)
"""The traversal of the whole inventory in the SDK's guide, whose parts name each other."""


def test_powercli_finds_everything_starts_a_vm_and_reads_what_happened(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        host.anonymous.extra = {"user-agent": "VMware VI Client/4.0.0"}
        call = Caller(host.anonymous, NET, '"urn:vim25/8.0.1.0"')
        this = '<_this type="ServiceInstance">ServiceInstance</_this>'
        assert 'type="EventManager"' in await call("RetrieveServiceContent", this)
        await call(
            "Login",
            f'<_this type="SessionManager">ha-sessionmgr</_this><userName>{USER}</userName>'
            f"<password>{PASSWORD}</password><locale>en</locale>",
        )
        await call("CurrentTime", this)
        await call.properties("ServiceInstance", "ServiceInstance", "capability", "content.about")
        roles = ("roleList", "privilegeList", "description")
        await call.properties("AuthorizationManager", "ha-authmgr", *roles)
        # Get-VM, Get-VMHost, Get-Datastore: one walk over everything.
        sets = {
            "VirtualMachine": ("name", "runtime.powerState", "config.hardware.memoryMB", "parent"),
            "HostSystem": ("name", "summary.hardware", "runtime.connectionState", "parent"),
            "Datastore": ("name", "summary", "info"),
        }
        wanted = "".join(
            f"<propSet><type>{kind}</type>{''.join(f'<pathSet>{p}</pathSet>' for p in paths)}"
            "</propSet>"
            for kind, paths in sets.items()
        )
        got = await call(
            "RetrievePropertiesEx",
            f'{COLLECTOR}<specSet>{wanted}<objectSet><obj type="Folder">ha-folder-root</obj>'
            f"<skip>false</skip>{EVERYTHING}</objectSet></specSet><options />",
        )
        assert len(re.findall(r'<obj type="VirtualMachine"', got)) == 2
        assert '<obj type="HostSystem"' in got
        # Get-View: a view of everything below a folder, all properties.
        view = '<_this type="ViewManager">ViewManager</_this>'
        made = await call(
            "CreateContainerView",
            f'{view}<container type="Folder">ha-folder-root</container>'
            "<type>VirtualMachine</type><recursive>true</recursive>",
        )
        key = re.search(r"<returnval[^>]*>([^<]+)<", made)
        assert key is not None
        await call(
            "RetrievePropertiesEx",
            f"{COLLECTOR}<specSet><propSet><type>VirtualMachine</type><all>true</all></propSet>"
            f'<objectSet><obj type="ContainerView">{key[1]}</obj><skip>true</skip>'
            + chained("view", "ContainerView", "view")
            + "</objectSet></specSet><options><maxObjects>1</maxObjects></options>",
        )
        await call("DestroyView", f'<_this type="ContainerView">{key[1]}</_this>')
        # Start-VM, Get-VIEvent, Get-Stat, Get-VMQuestion, Get-AdvancedSetting.
        vm = '<_this type="VirtualMachine">1</_this>'
        await call.done(await call("PowerOnVM_Task", vm))
        assert machine(host, "vm1").power is PowerState.POWERED_ON
        manager = '<_this type="EventManager">ha-eventmgr</_this>'
        made = await call("CreateCollectorForEvents", f"{manager}<filter />")
        key = re.search(r"<returnval[^>]*>([^<]+)<", made)
        assert key is not None
        collector = f'<_this type="EventHistoryCollector">{key[1]}</_this>'
        await call("SetCollectorPageSize", f"{collector}<maxCount>100</maxCount>")
        for _ in range(10_000):
            await call("RewindCollector", collector)
            if "VmPoweredOnEvent" in await call(
                "ReadNextEvents", f"{collector}<maxCount>100</maxCount>"
            ):
                break
            await asyncio.sleep(0.005)
        else:
            raise AssertionError(key)
        await call("DestroyCollector", collector)
        manager = '<_this type="PerformanceManager">ha-perfmgr</_this>'
        entity = '<entity type="VirtualMachine">1</entity>'
        assert "<currentSupported>true" in await call("QueryPerfProviderSummary", manager + entity)
        offered = await call(
            "QueryAvailablePerfMetric", f"{manager}{entity}<intervalId>20</intervalId>"
        )
        metric = re.search(r"<counterId>(\d+)<", offered)
        assert metric is not None
        await call(
            "QueryPerf",
            f"{manager}<querySpec>{entity}<maxSample>1</maxSample><metricId>"
            f"<counterId>{metric[1]}</counterId><instance /></metricId>"
            "<intervalId>20</intervalId></querySpec>",
        )
        await call.properties("VirtualMachine", "1", "runtime.question", "config.extraConfig")
        await call("QueryOptions", '<_this type="OptionManager">ha-adv-options</_this>')
        await call("Logout", '<_this type="SessionManager">ha-sessionmgr</_this>')

    play(story)
