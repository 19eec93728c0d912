// Serves govmomi's simulator of one ESX host until its input ends; prints its address.
package main

import (
	"flag"
	"fmt"
	"io"
	"io/ioutil"
	"net/url"
	"os"

	"github.com/vmware/govmomi/simulator"
)

func main() {
	machines := flag.Int("vms", 1000, "VMs")
	flag.Parse()
	model := simulator.ESX()
	model.Machine = *machines
	if err := model.Create(); err != nil {
		panic(err)
	}
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0"}
	server := model.Service.NewServer()
	fmt.Println(server.URL.Host)
	io.Copy(ioutil.Discard, os.Stdin)
	os.Exit(0) // clients may still wait for changes
}
