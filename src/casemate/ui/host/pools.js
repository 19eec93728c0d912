// The tree of resource pools: what each may have, is entitled to, and uses.

import { ROOT_POOL, call, members, read, ref } from "/ui/api.js";
import { bar } from "/ui/drawing.js";
import { h, size } from "/ui/dom.js";
import { button, choice, folded, form, text } from "/ui/forms.js";
import { allocation, allocationFields } from "/ui/allocation.js";

const MIB = 1 << 20;
const VM_FOLDER = ref("Folder", "ha-folder-vm");
const MHZ = (value) => `${value} MHz`;
const MARKS = "The bar is what is used; the line across it what is entitled; below it what is reserved.";

function shares({ limit, shares: given }) {
  return `shares ${given.shares} (${given.level})${limit >= 0 ? `, limit ${limit}` : ""}`;
}

function drawn(label, usage, entitled, unit) {
  const told = `${unit(usage.overallUsage)} of ${unit(usage.maxUsage)} used, `
    + `${unit(entitled)} entitled, ${unit(usage.reservationUsed)} reserved`;
  return h("div", { class: "usage" }, h("span", { class: "dim" }, label),
    bar(`${label}: ${told}`, { used: usage.overallUsage, most: usage.maxUsage, entitled,
      reserved: usage.reservationUsed }), h("span", {}, told));
}

function machine(m, most) {
  const used = m["summary.quickStats.overallCpuUsage"] ?? 0;
  const entitled = m["summary.quickStats.distributedCpuEntitlement"] ?? 0;
  const told = `${MHZ(used)} used, ${MHZ(entitled)} entitled`;
  return h("li", {}, h("div", { class: "usage" },
    h("a", { href: `#vm/${encodeURIComponent(m.ref.value)}` }, m.name),
    bar(`${m.name}: ${told}`, { used, most, entitled }),
    h("span", { class: "dim" }, `${told}, shares ${m["config.cpuAllocation.shares.shares"] ?? ""}`)));
}

const spec = (given, before) => ({
  cpuAllocation: allocation(given, "cpu", before?.cpuAllocation),
  memoryAllocation: allocation(given, "memory", before?.memoryAllocation),
});

function settings(one, act, keep) {
  const mark = one.ref.value;
  const now = JSON.stringify([one.config.cpuAllocation, one.config.memoryAllocation]);
  // What was changed is what the form begins with from then on.
  if (keep[`${mark} now`] !== now) delete keep[mark];
  keep[`${mark} now`] = now;
  keep[mark] ||= folded(`change-${mark}`, "Change", form(allocationFields(one.config), "Save", (given) =>
    act(() => call(one.ref, "UpdateConfig", { config: spec(given, one.config) }), `${one.name}: change`)));
  return [keep[mark], button("Remove", `Destroy-${mark}`,
    () => act(() => call(one.ref, "Destroy_Task"), `${one.name}: removal`),
    { question: `Remove the pool ${one.name}? What is in it moves up.` })];
}

function pool(one, all, machines, act, keep) {
  const below = all.filter((other) => other.parent && other.parent.value === one.ref.value);
  const inside = machines.filter((m) => m.resourcePool && m.resourcePool.value === one.ref.value);
  const stats = one.summary.quickStats || {};
  return h("li", {}, h("strong", {}, one.name),
    h("span", { class: "dim" }, ` CPU ${shares(one.config.cpuAllocation)}; memory ${shares(one.config.memoryAllocation)}`),
    drawn("CPU", one.runtime.cpu, stats.distributedCpuEntitlement ?? 0, MHZ),
    drawn("Memory", one.runtime.memory, (stats.distributedMemoryEntitlement ?? 0) * MIB, size),
    one.ref.value !== ROOT_POOL.value && h("div", { class: "row" }, settings(one, act, keep)),
    h("ul", { class: "tree" }, below.map((child) => pool(child, all, machines, act, keep)),
      inside.map((m) => machine(m, one.runtime.cpu.maxUsage))));
}

export async function everyPool(wanted) {
  const all = [];
  let level = [ROOT_POOL];
  while (level.length) {
    const rows = await Promise.all(level.map(async (one) => Object.fromEntries([["ref", one],
      ...await Promise.all(wanted.map(async (name) => [name, await read(one, name)]))])));
    all.push(...rows);
    level = (await Promise.all(level.map((one) => read(one, "resourcePool")))).flat().filter(Boolean);
  }
  return all;
}

export async function pools({ act, keep }) {
  const [all, machines] = await Promise.all([
    everyPool(["name", "parent", "runtime", "config", "summary"]),
    members(VM_FOLDER, "childEntity", "VirtualMachine",
      ["name", "resourcePool", "summary.quickStats.overallCpuUsage",
        "summary.quickStats.distributedCpuEntitlement", "config.cpuAllocation.shares.shares"])]);
  const places = all.map((one) => [one.ref.value, one.name]);
  if (keep.places !== JSON.stringify(places)) {
    keep.places = JSON.stringify(places);
    keep.form = folded("new", "New resource pool", form([
      text("Name", "name", { maxlength: 80 }), choice("In", "parent", places), allocationFields(null)],
    "Create", (given) => act(() => call(ref("ResourcePool", given.parent), "CreateResourcePool",
      { name: given.name, spec: spec(given) }), `${given.name}: creation`)));
  }
  return [h("h2", {}, "Resource pools"), keep.form, h("p", { class: "dim" }, MARKS),
    h("ul", { class: "tree root" }, pool(all[0], all, machines, act, keep))];
}
