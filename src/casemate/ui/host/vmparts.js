// Parts of the pages about VMs: the form that makes one, its snapshots, its charts.

import { call, members, read, ref } from "/ui/api.js";
import { chart } from "/ui/drawing.js";
import { h, size, time } from "/ui/dom.js";

const PERFORMANCE = ref("PerformanceManager", "ha-perfmgr");
const DATACENTER = ref("Datacenter", "ha-datacenter");
const FOLDER = ref("Folder", "ha-folder-vm");
const SAMPLES = 90;
const INTERVAL = 20;
const KIB = 1024;
const CHARTS = [
  ["CPU", "cpu.usagemhz.average", (value) => `${value} MHz`],
  ["Memory", "mem.consumed.average", (value) => size(value * KIB)],
];

let counters = null;

async function counterIds() {
  counters ||= Object.fromEntries((await read(PERFORMANCE, "perfCounter")).map((one) =>
    [`${one.groupInfo.key}.${one.nameInfo.key}.${one.rollupType}`, one.key]));
  return counters;
}

export async function charts(entity) {
  const ids = await counterIds();
  const known = CHARTS.filter(([, name]) => ids[name]);
  const found = await call(PERFORMANCE, "QueryPerf", { querySpec: [{ entity, intervalId: INTERVAL,
    maxSample: SAMPLES, format: "normal",
    metricId: known.map(([, name]) => ({ counterId: ids[name], instance: "" })) }] });
  const series = found && found[0] ? found[0].value || [] : [];
  const drawn = known.map(([label, name, unit]) => {
    const one = series.find((each) => each.id.counterId === ids[name]);
    return one && one.value && one.value.length ? chart(label, one.value, unit) : null;
  }).filter(Boolean);
  return drawn.length ? h("div", { class: "charts" }, drawn)
    : h("p", { class: "dim" }, "Nothing measured yet: samples are taken every 20 seconds.");
}

export function snapshots(trees, current, act) {
  const button = (one, label, method, parameters, question) => h("button", {
    type: "button", "data-method": `${method}-${one.id}`,
    onclick: () => confirm(question) && act(() => call(one.snapshot, method, parameters), `${label}: asked`),
  }, label);
  return h("ul", { class: "tree" }, trees.map((one) => h("li", {},
    h("div", { class: "row" }, h("strong", {}, one.name),
      h("span", { class: "dim" }, time(one.createTime)),
      current && current.value === one.snapshot.value ? h("span", { class: "good" }, "the VM stands here") : null,
      button(one, "Go back", "RevertToSnapshot_Task", {}, `Go back to ${one.name}? What came after it is lost.`),
      button(one, "Remove", "RemoveSnapshot_Task", { removeChildren: false, consolidate: true },
        `Remove the snapshot ${one.name}?`)),
    one.description ? h("div", { class: "dim" }, one.description) : null,
    one.childSnapshotList && one.childSnapshotList.length
      ? snapshots(one.childSnapshotList, current, act) : null)));
}

const device = (operation, what, more = {}) => ({ operation, device: what, ...more });

function spec(given) {
  return {
    name: given.name, guestId: given.guest, numCPUs: Number(given.cpus),
    memoryMB: Number(given.memory), firmware: "efi",
    files: { vmPathName: `[${given.store}]` },
    deviceChange: [
      device("add", { _typeName: "ParaVirtualSCSIController", key: -1, busNumber: 0, sharedBus: "noSharing" }),
      device("add", { _typeName: "VirtualDisk", key: -2, controllerKey: -1, unitNumber: 0,
        capacityInKB: Number(given.disk) * KIB * KIB,
        backing: { _typeName: "VirtualDiskFlatVer2BackingInfo", fileName: "", diskMode: "persistent",
          thinProvisioned: true } }, { fileOperation: "create" }),
      ...(given.network ? [device("add", { _typeName: "VirtualVmxnet3", key: -3,
        backing: { _typeName: "VirtualEthernetCardNetworkBackingInfo", deviceName: given.network } })] : []),
    ],
  };
}

export async function newMachine(act) {
  const browser = ref("EnvironmentBrowser", "envbrowser-1");
  const [stores, networks, option, pool] = await Promise.all([
    members(DATACENTER, "datastore", "Datastore", ["name"]),
    members(DATACENTER, "network", "Network", ["name"]),
    call(browser, "QueryConfigOption"),
    Promise.resolve(ref("ResourcePool", "ha-root-pool"))]);
  const input = (label, name, more) => h("label", {}, label, h("input", { name, required: true, ...more }));
  const choice = (label, name, options) => h("label", {}, label, h("select", { name },
    options.map(([value, text]) => h("option", { value }, text))));
  const number = (low, high, value) => ({ type: "number", min: low, max: high, value });
  const form = h("form", { class: "wide" }, input("Name", "name", { maxlength: 80 }),
    choice("Guest", "guest", option.guestOSDescriptor.map((one) => [one.id, one.fullName])),
    input("CPUs", "cpus", number(1, 64, 1)), input("Memory in MiB", "memory", number(4, 1048576, 1024)),
    input("Disk in GiB", "disk", number(1, 65536, 8)),
    choice("Datastore", "store", stores.map(({ name }) => [name, name])),
    choice("Network", "network", [...networks.map(({ name }) => [name, name]), ["", "none"]]),
    h("button", { class: "first" }, "Create"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(form));
    act(() => call(FOLDER, "CreateVM_Task", { config: spec(given), pool }), `${given.name}: asked`);
  });
  return h("details", { id: "new" }, h("summary", {}, "New virtual machine"), form);
}
