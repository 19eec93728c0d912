// Drives a host through the govmomi library as its users do, and tells of every step how it went.
//
//	client URL
//
// One line a step, "ok NAME" or "FAIL NAME: REASON"; the last line counts.
package main

import (
	"context"
	"fmt"
	"io/ioutil"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/event"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/performance"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const name = "from-go"

// What the library keeps to itself: esxcli.
type retrieve struct {
	This types.ManagedObjectReference `xml:"_this"`
}

type retrieveBody struct {
	Req *retrieve `xml:"urn:vim25 RetrieveManagedMethodExecuter"`
	Res *struct {
		Returnval types.ManagedObjectReference `xml:"urn:vim25 returnval"`
	} `xml:"urn:vim25 RetrieveManagedMethodExecuterResponse"`
	Fault_ *soap.Fault `xml:"http://schemas.xmlsoap.org/soap/envelope/ Fault"`
}

func (b *retrieveBody) Fault() *soap.Fault { return b.Fault_ }

type execute struct {
	This    types.ManagedObjectReference `xml:"_this"`
	Moid    string                       `xml:"moid"`
	Version string                       `xml:"version"`
	Method  string                       `xml:"method"`
}

type executeBody struct {
	Req *execute `xml:"urn:vim25 ExecuteSoap"`
	Res *struct {
		Returnval struct {
			Response string `xml:"response"`
		} `xml:"urn:vim25 returnval"`
	} `xml:"urn:vim25 ExecuteSoapResponse"`
	Fault_ *soap.Fault `xml:"http://schemas.xmlsoap.org/soap/envelope/ Fault"`
}

func (b *executeBody) Fault() *soap.Fault { return b.Fault_ }

// trip is what the steps share.
type trip struct {
	ctx    context.Context
	client *govmomi.Client
	finder *find.Finder
	dc     *object.Datacenter
	host   *object.HostSystem
	pool   *object.ResourcePool
	store  *object.Datastore
	vm     *object.VirtualMachine
	good   int
	bad    int
}

func (t *trip) step(what string, run func() error) {
	if err := run(); err != nil {
		t.bad++
		fmt.Printf("FAIL %s: %s\n", what, strings.ReplaceAll(err.Error(), "\n", " "))
		return
	}
	t.good++
	fmt.Printf("ok %s\n", what)
}

func (t *trip) task(task *object.Task, err error) error {
	if err != nil {
		return err
	}
	return task.Wait(t.ctx)
}

func want(ok bool, what string) error {
	if ok {
		return nil
	}
	return fmt.Errorf("not as expected: %s", what)
}

func main() {
	address, err := url.Parse(os.Args[1])
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	client, err := govmomi.NewClient(ctx, address, true)
	if err != nil {
		fmt.Printf("FAIL login: %s\n", err)
		os.Exit(1)
	}
	t := &trip{ctx: ctx, client: client}
	t.inventory()
	t.machines()
	t.snapshots()
	t.pools()
	t.hosts()
	t.files()
	t.history()
	t.governance()
	t.ovf()
	t.end()
	fmt.Printf("%d good, %d bad\n", t.good, t.bad)
	if t.bad > 0 {
		os.Exit(1)
	}
}

func (t *trip) inventory() {
	ctx := t.ctx
	t.finder = find.NewFinder(t.client.Client, true)
	t.step("datacenter", func() (err error) {
		t.dc, err = t.finder.DefaultDatacenter(ctx)
		if err == nil {
			t.finder.SetDatacenter(t.dc)
		}
		return err
	})
	t.step("host", func() (err error) { t.host, err = t.finder.DefaultHostSystem(ctx); return err })
	t.step("pool", func() (err error) { t.pool, err = t.finder.DefaultResourcePool(ctx); return err })
	t.step("datastore", func() (err error) { t.store, err = t.finder.DefaultDatastore(ctx); return err })
	t.step("network", func() error { _, err := t.finder.Network(ctx, "VM Network"); return err })
	t.step("folders", func() error {
		folders, err := t.dc.Folders(ctx)
		if err != nil {
			return err
		}
		found, err := folders.VmFolder.Children(ctx)
		if err != nil {
			return err
		}
		return want(len(found) > 0, "VMs in the folder")
	})
	t.step("list", func() error {
		found, err := t.finder.ManagedObjectListChildren(ctx, "/*/*")
		if err != nil {
			return err
		}
		return want(len(found) >= 4, "four folders")
	})
	t.step("view", func() error {
		manager := view.NewManager(t.client.Client)
		made, err := manager.CreateContainerView(ctx, t.client.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
		if err != nil {
			return err
		}
		defer made.Destroy(ctx)
		var vms []mo.VirtualMachine
		kinds := []string{"VirtualMachine"}
		if err := made.Retrieve(ctx, kinds, []string{"summary", "config", "guest", "runtime"}, &vms); err != nil {
			return err
		}
		var whole []mo.VirtualMachine
		if err := made.Retrieve(ctx, kinds, nil, &whole); err != nil {
			return err
		}
		names, err := made.Find(ctx, kinds, property.Filter{"name": "*"})
		if err != nil {
			return err
		}
		return want(len(vms) == len(names) && len(vms) == len(whole), "every VM once")
	})
	t.step("host as a whole", func() error {
		var host mo.HostSystem
		if err := t.host.Properties(ctx, t.host.Reference(), nil, &host); err != nil {
			return err
		}
		return want(host.Hardware != nil && host.Config != nil, "hardware and config")
	})
	t.step("paths into properties", func() error {
		collector := property.DefaultCollector(t.client.Client)
		found, err := t.finder.VirtualMachineList(ctx, "*")
		if err != nil {
			return err
		}
		for _, path := range []string{"config.hardware.device", "summary.config.vmPathName", "layoutEx", "runtime.question", "config.hardware.device[100]"} {
			var vm mo.VirtualMachine
			if err := collector.RetrieveOne(ctx, found[0].Reference(), []string{path}, &vm); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		return nil
	})
	t.step("search", func() error {
		search := object.NewSearchIndex(t.client.Client)
		ref, err := search.FindByInventoryPath(ctx, t.dc.InventoryPath+"/vm")
		if err != nil {
			return err
		}
		return want(ref != nil, "the VM folder by its path")
	})
	t.step("no such property", func() error {
		var vm mo.VirtualMachine
		err := property.DefaultCollector(t.client.Client).RetrieveOne(ctx, t.host.Reference(), []string{"nothing"}, &vm)
		return want(err != nil && strings.Contains(fmt.Sprintf("%#v", soap.ToSoapFault(err).VimFault()), "InvalidProperty"), "InvalidProperty")
	})
}

func (t *trip) machines() {
	ctx := t.ctx
	t.step("create", func() error {
		folders, err := t.dc.Folders(ctx)
		if err != nil {
			return err
		}
		network, err := t.finder.Network(ctx, "VM Network")
		if err != nil {
			return err
		}
		backing, err := network.EthernetCardBackingInfo(ctx)
		if err != nil {
			return err
		}
		var devices object.VirtualDeviceList
		scsi, err := devices.CreateSCSIController("pvscsi")
		if err != nil {
			return err
		}
		devices = append(devices, scsi)
		controller, err := devices.FindDiskController(devices.Name(scsi))
		if err != nil {
			return err
		}
		disk := devices.CreateDisk(controller, t.store.Reference(), "")
		disk.CapacityInKB = 64 << 10
		devices = append(devices, disk)
		nic, err := devices.CreateEthernetCard("vmxnet3", backing)
		if err != nil {
			return err
		}
		devices = append(devices, nic)
		changes, err := devices.ConfigSpec(types.VirtualDeviceConfigSpecOperationAdd)
		if err != nil {
			return err
		}
		spec := types.VirtualMachineConfigSpec{
			Name: name, GuestId: "otherLinux64Guest", NumCPUs: 1, MemoryMB: 64,
			Files:        &types.VirtualMachineFileInfo{VmPathName: fmt.Sprintf("[%s]", t.store.Name())},
			DeviceChange: changes,
		}
		task, err := folders.VmFolder.CreateVM(ctx, spec, t.pool, nil)
		if err != nil {
			return err
		}
		info, err := task.WaitForResult(ctx, nil)
		if err != nil {
			return err
		}
		t.vm = object.NewVirtualMachine(t.client.Client, info.Result.(types.ManagedObjectReference))
		return nil
	})
	if t.vm == nil {
		return
	}
	t.step("devices", func() error {
		devices, err := t.vm.Device(ctx)
		if err != nil {
			return err
		}
		for _, device := range devices {
			devices.Name(device)
			devices.Type(device)
		}
		if _, err := devices.FindIDEController(""); err != nil {
			return err
		}
		return want(len(devices.SelectByType((*types.VirtualDisk)(nil))) == 1, "one disk")
	})
	t.step("environment", func() error {
		var vm mo.VirtualMachine
		if err := t.vm.Properties(ctx, t.vm.Reference(), []string{"environmentBrowser"}, &vm); err != nil {
			return err
		}
		browser := vm.EnvironmentBrowser
		if _, err := methods.QueryConfigOptionDescriptor(ctx, t.client, &types.QueryConfigOptionDescriptor{This: browser}); err != nil {
			return err
		}
		option, err := methods.QueryConfigOption(ctx, t.client, &types.QueryConfigOption{This: browser})
		if err != nil {
			return err
		}
		if _, err = methods.QueryConfigTarget(ctx, t.client, &types.QueryConfigTarget{This: browser}); err != nil {
			return err
		}
		return want(len(option.Returnval.DefaultDevice) > 5, "default devices")
	})
	t.step("reconfigure", func() error {
		return t.task(t.vm.Reconfigure(ctx, types.VirtualMachineConfigSpec{
			NumCPUs: 2, MemoryMB: 128, Annotation: "made by Go",
			CpuAllocation: &types.ResourceAllocationInfo{Shares: &types.SharesInfo{Level: types.SharesLevelHigh}},
			ExtraConfig:   []types.BaseOptionValue{&types.OptionValue{Key: "guestinfo.go", Value: "yes"}},
		}))
	})
	t.step("add a disk", func() error {
		devices, err := t.vm.Device(ctx)
		if err != nil {
			return err
		}
		controller, err := devices.FindDiskController("")
		if err != nil {
			return err
		}
		disk := devices.CreateDisk(controller, t.store.Reference(), "")
		disk.CapacityInKB = 64 << 10
		return t.vm.AddDevice(ctx, disk)
	})
	t.step("remove a disk", func() error {
		devices, err := t.vm.Device(ctx)
		if err != nil {
			return err
		}
		disks := devices.SelectByType((*types.VirtualDisk)(nil))
		return t.vm.RemoveDevice(ctx, false, disks[len(disks)-1])
	})
	t.step("add USB controllers", func() error {
		yes := true
		usb := &types.VirtualUSBController{AutoConnectDevices: &yes, EhciEnabled: &yes}
		xhci := &types.VirtualUSBXHCIController{AutoConnectDevices: &yes}
		xhci.Key = -1
		return t.vm.AddDevice(ctx, usb, xhci)
	})
	t.step("change the video card", func() error {
		devices, err := t.vm.Device(ctx)
		if err != nil {
			return err
		}
		card := devices.SelectByType((*types.VirtualMachineVideoCard)(nil))[0].(*types.VirtualMachineVideoCard)
		card.VideoRamSizeInKB = 32 << 10
		return t.vm.EditDevice(ctx, card)
	})
	t.step("rename", func() error { return t.task(t.vm.Rename(ctx, name+"-2")) })
	t.step("rename back", func() error { return t.task(t.vm.Rename(ctx, name)) })
	t.step("power on", func() error { return t.task(t.vm.PowerOn(ctx)) })
	t.step("power state", func() error {
		state, err := t.vm.PowerState(ctx)
		if err != nil {
			return err
		}
		return want(state == types.VirtualMachinePowerStatePoweredOn, string(state))
	})
	t.step("power on again", func() error {
		err := t.task(t.vm.PowerOn(ctx))
		return want(err != nil && strings.Contains(err.Error(), "poweredOn"), fmt.Sprint(err))
	})
	t.step("reset", func() error { return t.task(t.vm.Reset(ctx)) })
	t.step("power off", func() error { return t.task(t.vm.PowerOff(ctx)) })
	t.step("remove USB controllers", func() error {
		devices, err := t.vm.Device(ctx)
		if err != nil {
			return err
		}
		usb := devices.SelectByType((*types.VirtualUSBController)(nil))
		usb = append(usb, devices.SelectByType((*types.VirtualUSBXHCIController)(nil))...)
		if err := want(len(usb) == 2, "two USB controllers"); err != nil {
			return err
		}
		return t.vm.RemoveDevice(ctx, false, usb...)
	})
	t.step("wait for a state", func() error {
		return t.vm.WaitForPowerState(ctx, types.VirtualMachinePowerStatePoweredOff)
	})
	t.step("clone is not a host's", func() error {
		folders, err := t.dc.Folders(ctx)
		if err != nil {
			return err
		}
		_, err = t.vm.Clone(ctx, folders.VmFolder, "copy", types.VirtualMachineCloneSpec{})
		return want(err != nil && strings.Contains(err.Error(), "not supported"), fmt.Sprint(err))
	})
	t.step("upgrade", func() error {
		err := t.task(t.vm.UpgradeVM(ctx, ""))
		return want(err == nil || strings.Contains(err.Error(), "up to date"), fmt.Sprint(err))
	})
}

func (t *trip) snapshots() {
	if t.vm == nil {
		return
	}
	ctx := t.ctx
	t.step("snapshot", func() error { return t.task(t.vm.CreateSnapshot(ctx, "one", "first", false, false)) })
	t.step("snapshot below", func() error { return t.task(t.vm.CreateSnapshot(ctx, "two", "", false, false)) })
	t.step("snapshot tree", func() error {
		var vm mo.VirtualMachine
		if err := t.vm.Properties(ctx, t.vm.Reference(), []string{"snapshot", "layoutEx"}, &vm); err != nil {
			return err
		}
		ref, err := t.vm.FindSnapshot(ctx, "one/two")
		if err != nil {
			return err
		}
		return want(*vm.Snapshot.CurrentSnapshot == *ref, "the newest is current")
	})
	t.step("revert", func() error { return t.task(t.vm.RevertToSnapshot(ctx, "one", true)) })
	t.step("revert to the current one", func() error { return t.task(t.vm.RevertToCurrentSnapshot(ctx, true)) })
	t.step("remove a snapshot", func() error { return t.task(t.vm.RemoveSnapshot(ctx, "two", false, nil)) })
	t.step("remove all", func() error { return t.task(t.vm.RemoveAllSnapshot(ctx, nil)) })
}

func (t *trip) pools() {
	ctx := t.ctx
	var made *object.ResourcePool
	t.step("make a pool", func() (err error) {
		spec := types.DefaultResourceConfigSpec()
		spec.CpuAllocation.Shares.Level = types.SharesLevelHigh
		made, err = t.pool.Create(ctx, "go-pool", spec)
		return err
	})
	if made == nil {
		return
	}
	t.step("read a pool", func() error {
		var pool mo.ResourcePool
		return made.Properties(ctx, made.Reference(), []string{"name", "config.cpuAllocation", "config.memoryAllocation", "runtime.cpu", "runtime.memory"}, &pool)
	})
	t.step("change a pool", func() error {
		spec := types.DefaultResourceConfigSpec()
		spec.MemoryAllocation.Limit = types.NewInt64(512)
		return made.UpdateConfig(ctx, "go-pool-2", &spec)
	})
	t.step("find a pool", func() error { _, err := t.finder.ResourcePool(ctx, "*/Resources/go-pool-2"); return err })
	t.step("remove a pool", func() error { return t.task(made.Destroy(ctx)) })
}

func (t *trip) hosts() {
	ctx := t.ctx
	systems := t.host.ConfigManager()
	t.step("services", func() error {
		system, err := systems.ServiceSystem(ctx)
		if err != nil {
			return err
		}
		_, err = system.Service(ctx)
		return err
	})
	t.step("time", func() error {
		system, err := systems.DateTimeSystem(ctx)
		if err != nil {
			return err
		}
		_, err = system.Query(ctx)
		return err
	})
	t.step("certificate", func() error {
		system, err := systems.CertificateManager(ctx)
		if err != nil {
			return err
		}
		_, err = system.CertificateInfo(ctx)
		return err
	})
	t.step("options", func() error {
		system, err := systems.OptionManager(ctx)
		if err != nil {
			return err
		}
		found, err := system.Query(ctx, "Security.")
		if err != nil {
			return err
		}
		return want(len(found) > 1, "options under a prefix")
	})
	t.step("storage", func() error {
		system, err := systems.StorageSystem(ctx)
		if err != nil {
			return err
		}
		var shown mo.HostStorageSystem
		return system.Properties(ctx, system.Reference(), nil, &shown)
	})
	t.step("networks", func() error {
		system, err := systems.NetworkSystem(ctx)
		if err != nil {
			return err
		}
		var shown mo.HostNetworkSystem
		return system.Properties(ctx, system.Reference(), []string{"networkInfo", "networkInfo.vswitch", "networkInfo.portgroup", "networkInfo.pnic"}, &shown)
	})
	t.step("firewall", func() error {
		system, err := systems.FirewallSystem(ctx)
		if err != nil {
			return err
		}
		info, err := system.Info(ctx)
		if err != nil {
			return err
		}
		return want(len(info.Ruleset) > 0, "rule sets")
	})
	t.step("automatic start", func() error {
		var host mo.HostSystem
		if err := t.host.Properties(ctx, t.host.Reference(), []string{"configManager.autoStartManager"}, &host); err != nil {
			return err
		}
		var shown mo.HostAutoStartManager
		return t.host.Properties(ctx, *host.ConfigManager.AutoStartManager, nil, &shown)
	})
	t.step("modules", func() error {
		var host mo.HostSystem
		if err := t.host.Properties(ctx, t.host.Reference(), []string{"configManager.kernelModuleSystem"}, &host); err != nil {
			return err
		}
		_, err := methods.QueryModules(ctx, t.client, &types.QueryModules{This: *host.ConfigManager.KernelModuleSystem})
		return err
	})
	t.step("attestation report", func() error {
		report, err := methods.QueryTpmAttestationReport(ctx, t.client, &types.QueryTpmAttestationReport{This: t.host.Reference()})
		if err != nil {
			return err
		}
		return want(report.Returnval != nil, "a report")
	})
	t.step("esxcli", func() error {
		var executer retrieveBody
		executer.Req = &retrieve{This: t.host.Reference()}
		if err := t.client.RoundTrip(ctx, &executer, &executer); err != nil {
			return err
		}
		call := executeBody{Req: &execute{
			This: executer.Res.Returnval, Moid: "ha-cli-handler-software-vib",
			Version: "urn:vim25/5.0", Method: "vim.EsxCLI.software.vib.list",
		}}
		if err := t.client.RoundTrip(ctx, &call, &call); err != nil {
			return err
		}
		return want(strings.Contains(call.Res.Returnval.Response, "<Name>casemate-kernel</Name>"), call.Res.Returnval.Response)
	})
	t.step("accounts", func() error {
		system, err := systems.AccountManager(ctx)
		if err != nil {
			return err
		}
		made := &types.HostAccountSpec{Id: "gopher", Password: "A Long-enough 1 password", Description: "from Go"}
		if err := system.Create(ctx, made); err != nil {
			return err
		}
		made.Description = "changed"
		if err := system.Update(ctx, made); err != nil {
			return err
		}
		return system.Remove(ctx, "gopher")
	})
}

func (t *trip) files() {
	ctx := t.ctx
	text := "from Go\n"
	manager := object.NewFileManager(t.client.Client)
	disks := object.NewVirtualDiskManager(t.client.Client)
	t.step("make a directory", func() error {
		return manager.MakeDirectory(ctx, t.store.Path("go-files"), t.dc, true)
	})
	t.step("upload", func() error {
		return t.store.Upload(ctx, strings.NewReader(text), "go-files/a.txt", &soap.Upload{Method: "PUT", ContentLength: int64(len(text))})
	})
	t.step("download", func() error {
		stream, _, err := t.store.Download(ctx, "go-files/a.txt", nil)
		if err != nil {
			return err
		}
		defer stream.Close()
		data, err := ioutil.ReadAll(stream)
		if err != nil {
			return err
		}
		return want(string(data) == text, "the same bytes")
	})
	t.step("stat", func() error { _, err := t.store.Stat(ctx, "go-files/a.txt"); return err })
	t.step("copy", func() error {
		return t.task(manager.CopyDatastoreFile(ctx, t.store.Path("go-files/a.txt"), t.dc, t.store.Path("go-files/b.txt"), t.dc, false))
	})
	t.step("move", func() error {
		return t.task(manager.MoveDatastoreFile(ctx, t.store.Path("go-files/b.txt"), t.dc, t.store.Path("go-files/c.txt"), t.dc, false))
	})
	t.step("browse", func() error {
		browser, err := t.store.Browser(ctx)
		if err != nil {
			return err
		}
		task, err := browser.SearchDatastore(ctx, t.store.Path("go-files"), &types.HostDatastoreBrowserSearchSpec{MatchPattern: []string{"*"}})
		if err != nil {
			return err
		}
		info, err := task.WaitForResult(ctx, nil)
		if err != nil {
			return err
		}
		found := info.Result.(types.HostDatastoreBrowserSearchResults)
		return want(len(found.File) == 2, fmt.Sprint(len(found.File), " files"))
	})
	t.step("make a disk", func() error {
		spec := &types.FileBackedVirtualDiskSpec{
			VirtualDiskSpec: types.VirtualDiskSpec{DiskType: "thin", AdapterType: "lsiLogic"},
			CapacityKb:      64 << 10,
		}
		return t.task(disks.CreateVirtualDisk(ctx, t.store.Path("go-files/d.vmdk"), t.dc, spec))
	})
	t.step("a disk's UUID", func() error {
		_, err := disks.QueryVirtualDiskUuid(ctx, t.store.Path("go-files/d.vmdk"), t.dc)
		return err
	})
	t.step("what kind a disk is", func() error {
		name := t.store.Path("go-files/d.vmdk")
		found, err := disks.QueryVirtualDiskInfo(ctx, name, t.dc, true)
		if err != nil {
			return err
		}
		return want(len(found) == 1 && found[0].DiskType == "thin" && found[0].Name == name, "one thin disk")
	})
	t.step("remove a disk file", func() error {
		return t.task(disks.DeleteVirtualDisk(ctx, t.store.Path("go-files/d.vmdk"), t.dc))
	})
	t.step("remove a directory", func() error {
		return t.task(manager.DeleteDatastoreFile(ctx, t.store.Path("go-files"), t.dc))
	})
}

func (t *trip) history() {
	ctx := t.ctx
	t.step("events", func() error {
		manager := event.NewManager(t.client.Client)
		found, err := manager.QueryEvents(ctx, types.EventFilterSpec{})
		if err != nil {
			return err
		}
		for _, one := range found {
			if _, err := manager.EventCategory(ctx, one); err != nil {
				return err
			}
		}
		return want(len(found) > 0, "events")
	})
	t.step("event collector", func() error {
		collector, err := event.NewManager(t.client.Client).CreateCollectorForEvents(ctx, types.EventFilterSpec{})
		if err != nil {
			return err
		}
		defer collector.Destroy(ctx)
		if err := collector.SetPageSize(ctx, 5); err != nil {
			return err
		}
		page, err := collector.LatestPage(ctx)
		if err != nil {
			return err
		}
		return want(len(page) > 0 && len(page) <= 5, "a page")
	})
	t.step("recent tasks", func() error {
		var manager mo.TaskManager
		return property.DefaultCollector(t.client.Client).RetrieveOne(ctx, *t.client.ServiceContent.TaskManager, []string{"recentTask", "description.methodInfo"}, &manager)
	})
	t.step("counters", func() error {
		manager := performance.NewManager(t.client.Client)
		names, err := manager.CounterInfoByName(ctx)
		if err != nil {
			return err
		}
		if _, ok := names["cpu.usage.average"]; !ok {
			return fmt.Errorf("no cpu.usage.average")
		}
		summary, err := manager.ProviderSummary(ctx, t.host.Reference())
		if err != nil {
			return err
		}
		if _, err := manager.AvailableMetric(ctx, t.host.Reference(), summary.RefreshRate); err != nil {
			return err
		}
		spec := types.PerfQuerySpec{IntervalId: summary.RefreshRate, MaxSample: 3}
		sample, err := manager.SampleByName(ctx, spec, []string{"cpu.usage.average", "mem.usage.average"}, []types.ManagedObjectReference{t.host.Reference()})
		if err != nil {
			return err
		}
		_, err = manager.ToMetricSeries(ctx, sample)
		return err
	})
	t.step("logs", func() error {
		manager := object.NewDiagnosticManager(t.client.Client)
		if _, err := manager.QueryDescriptions(ctx, nil); err != nil {
			return err
		}
		_, err := manager.BrowseLog(ctx, nil, "hostd", 0, 5)
		return err
	})
}

func (t *trip) governance() {
	ctx := t.ctx
	roles := object.NewAuthorizationManager(t.client.Client)
	var role int32
	t.step("roles", func() error {
		list, err := roles.RoleList(ctx)
		if err != nil {
			return err
		}
		return want(list.ByName("Admin") != nil, "Admin")
	})
	t.step("make a role", func() (err error) {
		role, err = roles.AddRole(ctx, "gophers", []string{"VirtualMachine.Interact.PowerOn"})
		return err
	})
	t.step("permissions", func() error {
		if _, err := roles.RetrieveAllPermissions(ctx); err != nil {
			return err
		}
		_, err := roles.RetrieveEntityPermissions(ctx, t.client.ServiceContent.RootFolder, false)
		return err
	})
	t.step("remove a role", func() error { return roles.RemoveRole(ctx, role, true) })
	t.step("sessions", func() error {
		var manager mo.SessionManager
		if err := property.DefaultCollector(t.client.Client).RetrieveOne(ctx, *t.client.ServiceContent.SessionManager, nil, &manager); err != nil {
			return err
		}
		own, err := session.NewManager(t.client.Client).UserSession(ctx)
		if err != nil {
			return err
		}
		return want(own != nil && len(manager.SessionList) > 0, "the session itself")
	})
	t.step("licences", func() error {
		var manager mo.LicenseManager
		return property.DefaultCollector(t.client.Client).RetrieveOne(ctx, *t.client.ServiceContent.LicenseManager, []string{"licenses"}, &manager)
	})
}

func (t *trip) end() {
	ctx := t.ctx
	if t.vm != nil {
		t.step("unregister", func() error { return t.vm.Unregister(ctx) })
		t.step("register", func() error {
			folders, err := t.dc.Folders(ctx)
			if err != nil {
				return err
			}
			task, err := folders.VmFolder.RegisterVM(ctx, t.store.Path(name+"/"+name+".vmx"), name, false, t.pool, nil)
			if err != nil {
				return err
			}
			info, err := task.WaitForResult(ctx, nil)
			if err != nil {
				return err
			}
			t.vm = object.NewVirtualMachine(t.client.Client, info.Result.(types.ManagedObjectReference))
			return nil
		})
		t.step("destroy", func() error { return t.task(t.vm.Destroy(ctx)) })
	}
	t.step("logout", func() error { return t.client.Logout(ctx) })
}
