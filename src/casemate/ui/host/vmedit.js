// Changes of one VM: its settings, where it stands among the pools, and what is put into it.

import { call, members, ref } from "/ui/api.js";
import { h } from "/ui/dom.js";
import { allocation, allocationFields } from "/ui/allocation.js";
import { choice, folded, form, number, text } from "/ui/forms.js";
import { everyPool } from "/ui/pools.js";
import { card, disk } from "/ui/vmparts.js";

const DATACENTER = ref("Datacenter", "ha-datacenter");

const changed = (before, after) => JSON.stringify(before) !== JSON.stringify(after);

// A machine that runs takes some changes and not others: only what is new is asked for.
function difference(config, given) {
  const spec = {};
  const set = (name, before, after) => { if (changed(before, after)) spec[name] = after; };
  set("name", config.name, given.name);
  set("annotation", config.annotation || "", given.note);
  set("numCPUs", config.hardware.numCPU, Number(given.cpus));
  set("memoryMB", config.hardware.memoryMB, Number(given.memory));
  for (const name of ["cpu", "memory"]) {
    const before = config[`${name}Allocation`];
    const after = allocation(given, name, before);
    const plain = ({ reservation, limit, shares }) => [reservation, limit, shares.level,
      shares.level === "custom" && shares.shares];
    if (changed(plain(before), plain(after))) spec[`${name}Allocation`] = after;
  }
  return spec;
}

function change(target, config, pool, pools, act) {
  return folded("settings", "Change", form([
    text("Name", "name", { maxlength: 80, value: config.name }),
    text("Note", "note", { required: false, value: config.annotation || "" }),
    number("CPUs", "cpus", config.hardware.numCPU, { min: 1, max: 64 }),
    number("Memory in MiB", "memory", config.hardware.memoryMB, { min: 4 }),
    choice("Resource pool", "pool", pools, pool.value), allocationFields(config)], "Save", (given) =>
    act(async () => {
      if (given.pool !== pool.value) {
        await call(ref("ResourcePool", given.pool), "MoveIntoResourcePool", { list: [target] });
      }
      const spec = difference(config, given);
      return Object.keys(spec).length ? call(target, "ReconfigVM_Task", { spec }) : null;
    }, "Change")));
}

export async function settings(target, config, pool, act) {
  const [networks, all] = await Promise.all([
    members(DATACENTER, "network", "Network", ["name"]), everyPool(["name"])]);
  const controller = config.hardware.device.find((one) => /SCSIController|Nvme|AHCI/.test(one._typeName));
  const add = (device, more) => act(() => call(target, "ReconfigVM_Task", {
    spec: { deviceChange: [{ operation: "add", device, ...more }] } }), "Change");
  return h("div", {},
    change(target, config, pool, all.map((one) => [one.ref.value, one.name]), act),
    controller && folded("disk", "Add a disk", form([number("Size in GiB", "size", 8, { min: 1, max: 65536 })],
      "Add", ({ size }) => add(disk(Number(size), controller.key), { fileOperation: "create" }))),
    folded("card", "Add a network card", form([
      choice("Network", "network", networks.map(({ name }) => [name, name]))], "Add",
    ({ network }) => add(card(network)))));
}
