// The host at a glance: what it is, how busy, how well, and what an administrator does with all of it.

import { HOST, call, members, read, ref } from "/ui/api.js";
import { bar } from "/ui/drawing.js";
import { coloured, h, list, size, time } from "/ui/dom.js";
import { button } from "/ui/forms.js";
import { charts } from "/ui/vmparts.js";

const DATACENTER = ref("Datacenter", "ha-datacenter");
const MIB = 1 << 20;
const HEALTH = { green: ["good", "good"], yellow: ["needs attention", "warn"], red: ["bad", "bad"] };

const since = (text) => {
  const minutes = Math.max(0, Math.floor((Date.now() - new Date(text)) / 60000));
  const parts = [[Math.floor(minutes / 1440), "d"], [Math.floor(minutes / 60) % 24, "h"], [minutes % 60, "min"]];
  return parts.filter(([many], place) => many || place === 2).map(([many, unit]) => `${many} ${unit}`).join(" ");
};

const usage = (label, used, most, unit) => h("div", { class: "usage" }, h("span", { class: "dim" }, label),
  bar(`${label}: ${unit(used)} of ${unit(most)} used`, { used, most }),
  h("span", {}, `${unit(used)} of ${unit(most)} used`));

function actions(summary, capability, act) {
  const maintenance = summary.runtime.inMaintenanceMode;
  const ask = (what, method, parameters) => () => act(() => call(HOST, method, parameters), what);
  return h("div", { class: "row" },
    maintenance
      ? button("Leave maintenance mode", "ExitMaintenanceMode_Task",
        ask("Leaving maintenance mode", "ExitMaintenanceMode_Task", { timeout: 0 }))
      : button("Enter maintenance mode", "EnterMaintenanceMode_Task",
        ask("Entering maintenance mode", "EnterMaintenanceMode_Task", { timeout: 0 }),
        { question: "Enter maintenance mode? It waits until no VM runs." }),
    capability.rebootSupported && button("Restart", "RebootHost_Task",
      ask("Restart", "RebootHost_Task", { force: !maintenance }), { question: "Restart the whole host?" }),
    capability.shutdownSupported && button("Shut down", "ShutdownHost_Task",
      ask("Shutdown", "ShutdownHost_Task", { force: !maintenance }), { question: "Shut the whole host down?" }));
}

export async function host({ act }) {
  const [summary, capability, issues, report, lockdown, drawn, stores, machines] = await Promise.all([
    read(HOST, "summary"), read(HOST, "capability"), read(HOST, "configIssue"),
    call(HOST, "QueryTpmAttestationReport"),
    read(ref("HostAccessManager", "ha-host-access-manager"), "lockdownMode"), charts(HOST),
    members(DATACENTER, "datastore", "Datastore", ["summary"]),
    members(ref("Folder", "ha-folder-vm"), "childEntity", "VirtualMachine", ["runtime.powerState"])]);
  const { hardware, quickStats, runtime, config } = summary;
  const on = machines.filter((one) => one["runtime.powerState"] === "poweredOn").length;
  return [h("h2", {}, config.name), actions(summary, capability, act),
    (issues || []).map((one) => h("p", { class: "notice" }, one.fullFormattedMessage)),
    h("div", { class: "panels" },
      list([["Product", config.product.fullName], ["Machine", `${hardware.vendor} ${hardware.model}`],
        ["Processors", `${hardware.numCpuCores} × ${hardware.cpuModel}, ${hardware.cpuMhz} MHz`],
        ["Up for", since(runtime.bootTime)], ["Since", time(runtime.bootTime)],
        ["Mode", runtime.inMaintenanceMode ? coloured("maintenance", "warn") : "normal"],
        ["VMs", `${on} of ${machines.length} on`]]),
      list([["Health", coloured(...(HEALTH[summary.overallStatus] || [summary.overallStatus, "dim"]))],
        ["Measured boot", h("a", { href: "#measurements" }, report.tpmLogReliable
          ? coloured("the log explains every PCR", "good") : coloured("the log does not explain the PCRs", "bad"))],
        ["Lockdown", lockdown.replace("lockdown", "").toLowerCase()],
        ["Secure Boot", capability.uefiSecureBoot ? coloured("on", "good") : "off: the TPM was started by this host"],
        ["Certificate", h("a", { href: "#certificate" },
          h("code", { class: "digest" }, summary.config.sslThumbprint || "none"))]])),
    h("h3", {}, "Used now"),
    h("div", { class: "card" },
      usage("CPU", quickStats.overallCpuUsage, hardware.numCpuCores * hardware.cpuMhz, (mhz) => `${mhz} MHz`),
      usage("Memory", quickStats.overallMemoryUsage * MIB, hardware.memorySize, size),
      stores.map(({ summary: one }) => usage(one.name, one.capacity - one.freeSpace, one.capacity, size))),
    h("h3", {}, "Last half hour"), drawn];
}
