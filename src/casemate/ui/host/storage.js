// Datastores and the disks of the machine.

import { members, read, ref } from "/ui/api.js";
import { bar } from "/ui/drawing.js";
import { h, size, table } from "/ui/dom.js";

const DATACENTER = ref("Datacenter", "ha-datacenter");

export const folder = (path) => `#files/${encodeURIComponent(path)}`;

export async function storage() {
  const [stores, devices] = await Promise.all([
    members(DATACENTER, "datastore", "Datastore", ["summary", "vm"]),
    read(ref("HostStorageSystem", "storageSystem"), "storageDeviceInfo")]);
  return [h("h2", {}, "Storage"), h("h3", {}, "Datastores"),
    table(["Name", "Used", "Free", "Capacity", "VMs", "Place"],
      stores.map(({ summary, vm }) => {
        const used = summary.capacity - summary.freeSpace;
        return [h("a", { href: folder(`[${summary.name}]`) }, summary.name),
          bar(`${size(used)} of ${size(summary.capacity)} used`, { used, most: summary.capacity }),
          size(summary.freeSpace), size(summary.capacity), String((vm || []).length),
          h("code", {}, summary.url)];
      }), [2, 3, 4]),
    h("h3", {}, "Disks of the machine"),
    table(["Name", "Model", "Size", "Kind"], (devices.scsiLun || []).map((one) => [
      h("code", {}, one.canonicalName), [one.vendor, one.model].filter(Boolean).join(" "),
      one.capacity ? size(one.capacity.block * one.capacity.blockSize) : "",
      one.ssd ? "flash" : "rotating or virtual"]), [2])];
}
