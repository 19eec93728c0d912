// The list of VMs, and one of them.

import { call, members, read, ref } from "/ui/api.js";
import { coloured, h, list, size, table, time } from "/ui/dom.js";
import { button, kept } from "/ui/forms.js";
import { settings } from "/ui/vmedit.js";
import { charts, devices, newMachine, newSnapshot, registration, snapshots } from "/ui/vmparts.js";

const MIB = 1 << 20;
const STATES = { poweredOn: ["on", "good"], poweredOff: ["off", "dim"], suspended: ["suspended", "warn"] };
const VM_FOLDER = ref("Folder", "ha-folder-vm");
const MANY = 10;

const state = (power) => coloured(...(STATES[power] || [power, "dim"]));

function power(vm, now, act) {
  const one = (label, method, works) => button(label, method, () => act(() => call(vm, method), label,
    method.endsWith("Guest") ? "asked" : "done"), { disabled: !works });
  const on = now === "poweredOn";
  return h("div", { class: "row" },
    one("Power on", "PowerOnVM_Task", !on), one("Power off", "PowerOffVM_Task", on),
    one("Reset", "ResetVM_Task", on), one("Suspend", "SuspendVM_Task", on),
    one("Shut down guest", "ShutdownGuest", on),
    on && h("a", { class: "button", href: `#console/${encodeURIComponent(vm.value)}` }, "Console"));
}

function searched(keep, found) {
  if (found.length <= MANY && !keep.wanted) return [found, null];
  keep.search ||= h("input", { type: "search", placeholder: "Search by name", "aria-label": "Search by name",
    oninput: (event) => { keep.wanted = event.target.value.toLowerCase(); keep.draw(); } });
  return [found.filter((one) => one.name.toLowerCase().includes(keep.wanted || "")), keep.search];
}

export async function vms({ act, keep }) {
  keep.form ||= await newMachine(act);
  keep.register ||= registration(act);
  const found = await members(VM_FOLDER, "childEntity", "VirtualMachine", ["name", "summary"]);
  const body = h("div", {});
  keep.draw = () => {
    const [rows] = searched(keep, found);
    body.replaceChildren(table(["Name", "Power", "CPUs", "Memory", "CPU used", "Memory used", ""],
      rows.map(({ ref: vm, name, summary }) => [
        h("a", { href: `#vm/${encodeURIComponent(vm.value)}` }, name),
        state(summary.runtime.powerState),
        summary.config.numCpu, size(summary.config.memorySizeMB * MIB),
        `${summary.quickStats.overallCpuUsage} MHz`, size(summary.quickStats.hostMemoryUsage * MIB),
        power(vm, summary.runtime.powerState, act),
      ]), [2, 3, 4, 5]));
  };
  const [, search] = searched(keep, found);
  keep.draw();
  return [h("h2", {}, "Virtual machines"), keep.form, keep.register, search, body];
}

function removal(target, name, now, act) {
  const ask = (method, what, question) => button(what, method,
    () => act(() => call(target, method), name, "removed", "vms"),
    { disabled: now === "poweredOn", question });
  return h("div", { class: "row" },
    ask("UnregisterVM", "Unregister", `Take ${name} out of the inventory? Its files stay.`),
    ask("Destroy_Task", "Delete with its disks", `Delete ${name} and its disks? There is no way back.`));
}

export async function vm({ argument, act, keep }) {
  const target = ref("VirtualMachine", argument);
  const [drawn, pool, summary, config, tree] = await Promise.all([charts(target),
    ...["resourcePool", "summary", "config", "snapshot"].map((name) => read(target, name))]);
  const now = summary.runtime.powerState;
  const { name, annotation, hardware, cpuAllocation, memoryAllocation } = config;
  const form = await kept(keep, "settings",
    [name, annotation, hardware.numCPU, hardware.memoryMB, cpuAllocation, memoryAllocation, pool],
    () => settings(target, config, pool, act));
  keep.snapshot ||= newSnapshot(target, act);
  return [
    h("p", {}, h("a", { href: "#vms" }, "Virtual machines")),
    h("h2", {}, config.name),
    power(target, now, act),
    list([
      ["Power", state(now)], ["Guest", config.guestFullName],
      ["Name in the guest", summary.guest.hostName], ["Address in the guest", summary.guest.ipAddress],
      ["Firmware", config.firmware],
      ["CPUs", String(config.hardware.numCPU)], ["Memory", size(config.hardware.memoryMB * MIB)],
      ["Booted", time(summary.runtime.bootTime)], ["UUID", config.uuid],
      ["File", config.files.vmPathName], ["Note", config.annotation],
      ["CPU reservation", `${config.cpuAllocation.reservation} MHz`],
      ["CPU shares", String(config.cpuAllocation.shares.shares)],
      ["Memory reservation", `${config.memoryAllocation.reservation} MiB`],
      ["Memory shares", String(config.memoryAllocation.shares.shares)],
    ]),
    form,
    h("h3", {}, "Last half hour"), drawn,
    h("h3", {}, "Devices"), devices(target, config, act),
    h("h3", {}, "Snapshots"),
    tree ? snapshots(tree.rootSnapshotList, tree.currentSnapshot, act) : h("p", { class: "dim" }, "None."),
    keep.snapshot,
    h("h3", {}, "Remove"), removal(target, config.name, now, act),
  ];
}
