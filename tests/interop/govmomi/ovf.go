package main

import (
	"fmt"
	"io/ioutil"
	"os"
	"path/filepath"

	"github.com/vmware/govmomi/nfc"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/ovf"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// ovf brings the VM out as OVF and in again under another name.
func (t *trip) ovf() {
	ctx := t.ctx
	if t.vm == nil {
		return
	}
	place, err := ioutil.TempDir("", "ovf")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(place)
	manager := ovf.NewManager(t.client.Client)
	wanted := types.OvfCreateDescriptorParams{Name: name}
	t.step("export", func() error {
		lease, err := t.vm.Export(ctx)
		if err != nil {
			return err
		}
		info, err := lease.Wait(ctx, nil)
		if err != nil {
			return err
		}
		updater := lease.StartUpdater(ctx, info)
		defer updater.Done()
		for _, item := range info.Items {
			file := filepath.Join(place, item.Path)
			if err := lease.DownloadFile(ctx, file, item, soap.DefaultDownload); err != nil {
				return err
			}
			found, err := os.Stat(file)
			if err != nil {
				return err
			}
			item.Size = found.Size()
			wanted.OvfFiles = append(wanted.OvfFiles, item.File())
		}
		return lease.Complete(ctx)
	})
	var text string
	t.step("OVF descriptor", func() error {
		made, err := manager.CreateDescriptor(ctx, t.vm, wanted)
		if err != nil {
			return err
		}
		text = made.OvfDescriptor
		return want(text != "", "a descriptor")
	})
	var spec *types.OvfCreateImportSpecResult
	t.step("import specification", func() (err error) {
		spec, err = manager.CreateImportSpec(ctx, text, t.pool, t.store, types.OvfCreateImportSpecParams{EntityName: name + "-2", DiskProvisioning: "thin"})
		if err != nil {
			return err
		}
		return want(len(spec.Error) == 0, fmt.Sprint(spec.Error))
	})
	t.step("import", func() error {
		folders, err := t.dc.Folders(ctx)
		if err != nil {
			return err
		}
		lease, err := t.pool.ImportVApp(ctx, spec.ImportSpec, folders.VmFolder, nil)
		if err != nil {
			return err
		}
		info, err := lease.Wait(ctx, spec.FileItem)
		if err != nil {
			return err
		}
		if err := t.send(lease, info, place); err != nil {
			return err
		}
		return t.task(object.NewVirtualMachine(t.client.Client, info.Entity).Destroy(ctx))
	})
}

func (t *trip) send(lease *nfc.Lease, info *nfc.LeaseInfo, place string) error {
	updater := lease.StartUpdater(t.ctx, info)
	defer updater.Done()
	for _, item := range info.Items {
		file, err := os.Open(filepath.Join(place, item.Path))
		if err != nil {
			return err
		}
		defer file.Close()
		found, err := file.Stat()
		if err != nil {
			return err
		}
		if err := lease.Upload(t.ctx, item, file, soap.Upload{ContentLength: found.Size()}); err != nil {
			return err
		}
	}
	return lease.Complete(t.ctx)
}
