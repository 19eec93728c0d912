// Parts of the pages about VMs: forms that bring one about, its devices, its snapshots, its charts.

import { ROOT_POOL, call, members, read, ref } from "/ui/api.js";
import { chart } from "/ui/drawing.js";
import { h, size, table, time } from "/ui/dom.js";
import { button, choice, folded, form, number, text, tick } from "/ui/forms.js";

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
  const ask = (one, label, method, parameters, question) => button(label, `${method}-${one.id}`,
    () => act(() => call(one.snapshot, method, parameters), label), { question });
  return h("ul", { class: "tree" }, trees.map((one) => h("li", {},
    h("div", { class: "row" }, h("strong", {}, one.name),
      h("span", { class: "dim" }, time(one.createTime)),
      current && current.value === one.snapshot.value ? h("span", { class: "good" }, "the VM stands here") : null,
      ask(one, "Go back", "RevertToSnapshot_Task", {}, `Go back to ${one.name}? What came after it is lost.`),
      ask(one, "Remove", "RemoveSnapshot_Task", { removeChildren: false, consolidate: true },
        `Remove the snapshot ${one.name}?`)),
    one.description ? h("div", { class: "dim" }, one.description) : null,
    one.childSnapshotList && one.childSnapshotList.length
      ? snapshots(one.childSnapshotList, current, act) : null)));
}

export const disk = (gib, controllerKey, unit = {}) => ({
  _typeName: "VirtualDisk", key: -2, controllerKey, ...unit, capacityInKB: gib * KIB * KIB,
  backing: { _typeName: "VirtualDiskFlatVer2BackingInfo", fileName: "", diskMode: "persistent",
    thinProvisioned: true },
});

export const card = (network) => ({
  _typeName: "VirtualVmxnet3", key: -3,
  backing: { _typeName: "VirtualEthernetCardNetworkBackingInfo", deviceName: network },
});

function spec(given) {
  const add = (what, more = {}) => ({ operation: "add", device: what, ...more });
  return {
    name: given.name, guestId: given.guest, numCPUs: Number(given.cpus),
    memoryMB: Number(given.memory), firmware: given.firmware,
    files: { vmPathName: `[${given.store}]` },
    deviceChange: [
      add({ _typeName: "ParaVirtualSCSIController", key: -1, busNumber: 0, sharedBus: "noSharing" }),
      add(disk(Number(given.disk), -1, { unitNumber: 0 }), { fileOperation: "create" }),
      ...(given.network ? [add(card(given.network))] : []),
      ...(given.disc ? [add({ _typeName: "VirtualAHCIController", key: -4, busNumber: 0 }),
        add({ _typeName: "VirtualCdrom", key: -5, controllerKey: -4, unitNumber: 0,
          backing: { _typeName: "VirtualCdromIsoBackingInfo", fileName: given.disc },
          connectable: { startConnected: true, allowGuestControl: true, connected: true } })] : []),
    ],
  };
}

export async function newMachine(act) {
  const browser = ref("EnvironmentBrowser", "envbrowser-1");
  const [stores, networks, option] = await Promise.all([
    members(DATACENTER, "datastore", "Datastore", ["name"]),
    members(DATACENTER, "network", "Network", ["name"]),
    call(browser, "QueryConfigOption")]);
  return folded("new", "New virtual machine", form([text("Name", "name", { maxlength: 80 }),
    choice("Guest", "guest", option.guestOSDescriptor.map((one) => [one.id, one.fullName])),
    number("CPUs", "cpus", 1, { min: 1, max: 64 }),
    number("Memory in MiB", "memory", 1024, { min: 4, max: 1048576 }),
    number("Disk in GiB", "disk", 8, { min: 1, max: 65536 }),
    choice("Datastore", "store", stores.map(({ name }) => [name, name])),
    choice("Network", "network", [...networks.map(({ name }) => [name, name]), ["", "none"]]),
    choice("Firmware", "firmware", [["efi", "UEFI"], ["bios", "BIOS"]]),
    text("Disc image", "disc", { required: false, placeholder: "[datastore1] install.iso" })], "Create",
  (given) => act(() => call(FOLDER, "CreateVM_Task", { config: spec(given), pool: ROOT_POOL }),
    given.name, "created")));
}

export const registration = (act) => folded("register", "Register a virtual machine that is there", form([
  text("Its .vmx file", "path", { placeholder: "[datastore1] name/name.vmx" })], "Register", ({ path }) =>
  act(() => call(FOLDER, "RegisterVM_Task", { path, asTemplate: false, pool: ROOT_POOL }), path, "registered")));

export const newSnapshot = (target, act) => folded("snapshot", "Take a snapshot", form([
  text("Name", "name", { maxlength: 80 }), text("Description", "description", { required: false }),
  tick("With the memory of the running guest", "memory")], "Take it", (given) =>
  act(() => call(target, "CreateSnapshot_Task", { name: given.name, description: given.description,
    memory: given.memory === "on", quiesce: false }), given.name, "taken")));

export function devices(target, config, act) {
  const reconfigure = (operation, device, more) => act(() => call(target, "ReconfigVM_Task", {
    spec: { deviceChange: [{ operation, device, ...more }] } }), device.deviceInfo.label);
  // A card of a machine that is off is connected to nothing yet: what it starts with is what counts.
  const plugged = (one) => Boolean(one.connectable?.startConnected);
  const toggled = (one) => ({ ...one,
    connectable: { ...one.connectable, startConnected: !plugged(one), connected: !plugged(one) } });
  const actions = (one) => {
    const label = one.deviceInfo.label;
    const removed = (question, more) => button("Remove", `remove-${one.key}`,
      () => reconfigure("remove", one, more), { question });
    if (one._typeName === "VirtualDisk") return removed(`Take ${label} out? Its file stays in the datastore.`);
    if (one.macAddress) {
      return h("div", { class: "row" }, button(plugged(one) ? "Disconnect" : "Connect",
        `connect-${one.key}`, () => reconfigure("edit", toggled(one))), removed(`Take ${label} out?`));
    }
    return "";
  };
  const shown = (one) => [one.backing.fileName || one.backing.deviceName || one.deviceInfo.summary,
    one.capacityInKB && size(one.capacityInKB * KIB), one.macAddress].filter(Boolean).join(", ");
  return table(["Device", "Backing", ""], config.hardware.device.filter((one) => one.backing)
    .map((one) => [one.deviceInfo.label, h("span", { class: "any" }, shown(one)), actions(one)]));
}
