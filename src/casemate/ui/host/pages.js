// One function a page: reads what it shows and returns its elements.

import { HOST, ROOT_POOL, call, evidence, identity, members, read, ref } from "/ui/api.js";
import { consolePage } from "/ui/console.js";
import { bar } from "/ui/drawing.js";
import { charts, newMachine, snapshots } from "/ui/vmparts.js";
export { hardening } from "/ui/hardening.js";
export { network, storage, users } from "/ui/hostpages.js";
import { coloured, h, hex, list, size, table, time } from "/ui/dom.js";

const MIB = 1 << 20;
const STATES = { poweredOn: ["on", "good"], poweredOff: ["off", "dim"], suspended: ["suspended", "warn"] };
const VM_FOLDER = ref("Folder", "ha-folder-vm");

const state = (power) => coloured(...(STATES[power] || [power, "dim"]));

function power(vm, now, act) {
  const one = (label, method, works) => h("button", {
    type: "button", disabled: !works, "data-method": method,
    onclick: () => act(() => call(vm, method), `${label}: asked`),
  }, label);
  const on = now === "poweredOn";
  return h("div", { class: "row" },
    one("Power on", "PowerOnVM_Task", !on), one("Power off", "PowerOffVM_Task", on),
    one("Reset", "ResetVM_Task", on), one("Suspend", "SuspendVM_Task", on),
    one("Shut down guest", "ShutdownGuest", on),
    on && h("a", { class: "button", href: `#console/${encodeURIComponent(vm.value)}` }, "Console"));
}

export async function vms({ act, keep }) {
  keep.form ||= await newMachine(act);
  const found = await members(VM_FOLDER, "childEntity", "VirtualMachine", ["name", "summary"]);
  return [
    h("h2", {}, "Virtual machines"), keep.form,
    table(["Name", "Power", "CPUs", "Memory", "CPU used", "Memory used", ""],
      found.map(({ ref: vm, name, summary }) => [
        h("a", { href: `#vm/${encodeURIComponent(vm.value)}` }, name),
        state(summary.runtime.powerState),
        summary.config.numCpu, `${summary.config.memorySizeMB} MiB`,
        `${summary.quickStats.overallCpuUsage} MHz`, `${summary.quickStats.hostMemoryUsage} MiB`,
        power(vm, summary.runtime.powerState, act),
      ]), [2, 3, 4, 5]),
  ];
}

export async function vm({ argument, act }) {
  const target = ref("VirtualMachine", argument);
  const [drawn, summary, config, tree] = await Promise.all([charts(target),
    ...["summary", "config", "snapshot"].map((name) => read(target, name))]);
  const now = summary.runtime.powerState;
  const devices = config.hardware.device.filter((one) => one.backing);
  return [
    h("p", {}, h("a", { href: "#vms" }, "Virtual machines")),
    h("h2", {}, config.name),
    power(target, now, act),
    list([
      ["Power", state(now)], ["Guest", config.guestFullName],
      ["Name in the guest", summary.guest.hostName], ["Address in the guest", summary.guest.ipAddress], ["Firmware", config.firmware],
      ["CPUs", String(config.hardware.numCPU)], ["Memory", `${config.hardware.memoryMB} MiB`],
      ["Booted", time(summary.runtime.bootTime)], ["UUID", config.uuid],
      ["File", config.files.vmPathName], ["Note", config.annotation],
      ["CPU reservation", `${config.cpuAllocation.reservation} MHz`],
      ["CPU shares", String(config.cpuAllocation.shares.shares)],
      ["Memory reservation", `${config.memoryAllocation.reservation} MiB`],
      ["Memory shares", String(config.memoryAllocation.shares.shares)],
    ]),
    h("h3", {}, "Last half hour"), drawn,
    h("h3", {}, "Devices"),
    table(["Device", "Backing"], devices.map((one) => [
      one.deviceInfo.label,
      one.backing.fileName || one.backing.deviceName || one.deviceInfo.summary])),
    h("h3", {}, "Snapshots"),
    tree ? snapshots(tree.rootSnapshotList, tree.currentSnapshot, act) : h("p", { class: "dim" }, "None."),
    h("div", { class: "row" }, h("button", {
      type: "button", "data-method": "CreateSnapshot_Task",
      onclick: () => act(() => call(target, "CreateSnapshot_Task", {
        name: `Snapshot of ${new Date().toLocaleString()}`, memory: false, quiesce: false,
      }), "Snapshot: asked"),
    }, "Take a snapshot")),
  ];
}

export { consolePage as console };

const MHZ = (value) => `${value} MHz`;
const MARKS = "The bar is what is used; the line across it what is entitled; below it what is reserved.";

function shares(allocation) {
  const { limit, shares: given } = allocation;
  return `shares ${given.shares} (${given.level})${limit >= 0 ? `, limit ${limit}` : ""}`;
}

function drawn(label, usage, entitled, unit) {
  const text = `${unit(usage.overallUsage)} of ${unit(usage.maxUsage)} used, `
    + `${unit(entitled)} entitled, ${unit(usage.reservationUsed)} reserved`;
  return h("div", { class: "usage" }, h("span", { class: "dim" }, label),
    bar(`${label}: ${text}`, { used: usage.overallUsage, most: usage.maxUsage, entitled,
      reserved: usage.reservationUsed }), h("span", {}, text));
}

function machine(m, most) {
  const used = m["summary.quickStats.overallCpuUsage"] ?? 0;
  const entitled = m["summary.quickStats.distributedCpuEntitlement"] ?? 0;
  const text = `${MHZ(used)} used, ${MHZ(entitled)} entitled`;
  return h("li", {}, h("div", { class: "usage" },
    h("a", { href: `#vm/${encodeURIComponent(m.ref.value)}` }, m.name),
    bar(`${m.name}: ${text}`, { used, most, entitled }),
    h("span", { class: "dim" }, `${text}, shares ${m["config.cpuAllocation.shares.shares"] ?? ""}`)));
}

function pool(one, all, machines) {
  const below = all.filter((other) => other.parent && other.parent.value === one.ref.value);
  const inside = machines.filter((m) => m.resourcePool && m.resourcePool.value === one.ref.value);
  const stats = one.summary.quickStats || {};
  return h("li", {}, h("strong", {}, one.name),
    h("span", { class: "dim" }, ` ${shares(one.config.cpuAllocation)}`),
    drawn("CPU", one.runtime.cpu, stats.distributedCpuEntitlement ?? 0, MHZ),
    drawn("Memory", one.runtime.memory, (stats.distributedMemoryEntitlement ?? 0) * MIB, size),
    h("ul", { class: "tree" }, below.map((child) => pool(child, all, machines)),
      inside.map((m) => machine(m, one.runtime.cpu.maxUsage))));
}

export async function pools() {
  const wanted = ["name", "parent", "runtime", "config", "summary"];
  const all = [];
  let level = [ROOT_POOL];
  while (level.length) {
    const rows = await Promise.all(level.map(async (one) => Object.fromEntries([["ref", one],
      ...await Promise.all(wanted.map(async (name) => [name, await read(one, name)]))])));
    all.push(...rows);
    level = (await Promise.all(level.map((one) => read(one, "resourcePool")))).flat().filter(Boolean);
  }
  const machines = await members(VM_FOLDER, "childEntity", "VirtualMachine",
    ["name", "resourcePool", "summary.quickStats.overallCpuUsage",
      "summary.quickStats.distributedCpuEntitlement", "config.cpuAllocation.shares.shares"]);
  return [h("h2", {}, "Resource pools"), h("p", { class: "dim" }, MARKS),
    h("ul", { class: "tree root" }, pool(all[0], all, machines))];
}

export async function packages() {
  const manager = ref("HostImageConfigManager", "ha-image-config-manager");
  const [level, profile, found] = await Promise.all([
    call(manager, "HostImageConfigGetAcceptance"), call(manager, "HostImageConfigGetProfile"),
    call(manager, "fetchSoftwarePackages")]);
  return [h("h2", {}, "Packages"),
    list([["Image profile", profile.name], ["Vendor", profile.vendor], ["Acceptance level", level]]),
    h("h3", {}, "Installed VIBs"),
    table(["Name", "Version", "Vendor", "Level", "Signer", "Payloads"],
      (found || []).map((one) => [one.name, one.version, one.vendor, one.acceptanceLevel,
        one.description.replace(/^Signed by /, ""),
        h("code", {}, (one.payload || []).join(" "))]))];
}

const shown = (details) => details.componentName || details.bootSecurityOption
  || details.commandLine || details.optionsFileName || details.systemVersion || "";
const digest = (bytes) => h("code", { class: "digest" }, hex(bytes));
const kind = (details) => details._typeName.replace(/^HostTpm|EventDetails$/g, "");

export async function measurements({ act, keep }) {
  const [report, tpm] = await Promise.all([
    call(HOST, "QueryTpmAttestationReport"), identity()]);
  const proof = h("div", { id: "proof" }, keep.proof || "");
  const prove = async () => {
    const found = await evidence();
    keep.proof = list([["Nonce", h("code", {}, found.nonce)],
      ["Quotes", `${found.quotes.length}, signed by the TPM`],
      ["Log", `${found.log.length} characters of base64`],
      ["Components", String(found.components.length)],
      ["Boot complete", found.bootComplete ? "yes" : "no"]]);
    proof.replaceChildren(keep.proof);
  };
  return [h("h2", {}, "Measurements"),
    list([["TPM", `${tpm.manufacturer} ${tpm.firmwareVersion} (${tpm.kind})`],
      ["Log", report.tpmLogReliable
        ? coloured("explains every PCR of the hypervisor", "good")
        : coloured("does not explain the PCRs", "bad")],
      ["Verdict", "A host does not judge itself: ask a verifier."]]),
    h("div", { class: "row" }, h("button", { type: "button", onclick: () => act(prove, "") },
      "Ask for a proof with a fresh nonce")), proof,
    h("h3", {}, "Event log"),
    table(["PCR", "Event", "What", "VIB", "SHA-256"], report.tpmEvents.map((one) => [
      String(one.pcrIndex), kind(one.eventDetails), h("span", { class: "any" }, shown(one.eventDetails)),
      [one.eventDetails.vibName, one.eventDetails.vibVersion].filter(Boolean).join(" "),
      digest(one.eventDetails.dataHash)]), [0]),
    h("h3", {}, "PCRs"),
    table(["PCR", "SHA-256"], report.tpmPcrValues.map((one) => [
      String(one.pcrNumber), digest(one.digestValue)]), [0])];
}

export async function activity() {
  const [tasks, events] = await Promise.all([
    members(ref("TaskManager", "ha-taskmgr"), "recentTask", "Task", ["info"]),
    call(ref("EventManager", "ha-eventmgr"), "QueryEvents", { filter: {} })]);
  const colour = { success: "good", error: "bad" };
  return [h("h2", {}, "Activity"), h("h3", {}, "Tasks"),
    table(["Task", "On", "By", "State", "Queued", "Why it failed"],
      tasks.map(({ info }) => info).reverse().map((info) => [
        info.name || info.descriptionId, info.entityName, info.reason.userName,
        coloured(info.state, colour[info.state]), time(info.queueTime),
        info.error ? info.error.localizedMessage : ""])),
    h("h3", {}, "Events"),
    table(["When", "Who", "What"], (events || []).slice(-100).reverse().map((one) => [
      time(one.createdTime), one.userName, one.fullFormattedMessage]))];
}
