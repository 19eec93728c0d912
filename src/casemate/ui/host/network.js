// Virtual switches, their port groups, and the cards of the machine.

import { call, members, read, ref } from "/ui/api.js";
import { h, list, table } from "/ui/dom.js";
import { button, choice, folded, form, number, text, tick } from "/ui/forms.js";

const DATACENTER = ref("Datacenter", "ha-datacenter");
const SYSTEM = ref("HostNetworkSystem", "networkSystem");
const POLICIES = [["allowPromiscuous", "may see what is for others"],
  ["macChanges", "may change its address"], ["forgedTransmits", "may send in another's name"]];

const vlan = (id) => (id ? `VLAN ${id}` : "untagged");

function rules(policy) {
  const allowed = POLICIES.filter(([name]) => policy?.security?.[name]).map(([, what]) => what);
  return allowed.join(", ") || "nothing but its own";
}

function newGroup(switches, act) {
  return folded("group", "New port group", form([text("Name", "name", { maxlength: 80 }),
    choice("On the switch", "vswitchName", switches.map((one) => [one.name, one.name])),
    number("VLAN (0: untagged)", "vlanId", 0, { max: 4095 }),
    POLICIES.map(([name, what]) => tick(`A guest ${what}`, name))], "Create", (given) =>
    act(() => call(SYSTEM, "AddPortGroup", { portgrp: { name: given.name, vswitchName: given.vswitchName,
      vlanId: Number(given.vlanId), policy: { security: Object.fromEntries(
        POLICIES.map(([name]) => [name, given[name] === "on"])) } } }), given.name, "created")));
}

export async function network({ act, keep }) {
  const [networks, info] = await Promise.all([
    members(DATACENTER, "network", "Network", ["name", "vm"]), read(SYSTEM, "networkInfo")]);
  const switches = info.vswitch || [];
  const machines = Object.fromEntries(networks.map(({ name, vm }) => [name, (vm || []).length]));
  const marks = switches.map((one) => one.name).join(" ");
  if (keep.marks !== marks) {
    keep.marks = marks;
    keep.group = newGroup(switches, act);
  }
  const free = (info.pnic || []).map((one) => [one.device, one.device]);
  keep.switch ||= folded("switch", "New virtual switch", form([text("Name", "name", { maxlength: 31 }),
    choice("Card of the machine", "card", [["", "none"], ...free])], "Create", (given) =>
    act(() => call(SYSTEM, "AddVirtualSwitch", { vswitchName: given.name, spec: { numPorts: 128,
      ...(given.card ? { bridge: { _typeName: "HostVirtualSwitchBondBridge", nicDevice: [given.card] } } : {}) } }),
    given.name, "created")));
  return [h("h2", {}, "Network"), h("h3", {}, "Port groups"),
    table(["Name", "Switch", "VLAN", "A guest may do", "VMs", ""], (info.portgroup || []).map((one) => [
      one.spec.name, one.spec.vswitchName, vlan(one.spec.vlanId), rules(one.computedPolicy),
      String(machines[one.spec.name] ?? 0),
      button("Remove", `group-${one.spec.name}`, () => act(() =>
        call(SYSTEM, "RemovePortGroup", { pgName: one.spec.name }), one.spec.name, "removed"),
      { question: `Remove the port group ${one.spec.name}?` })]), [4]),
    keep.group,
    h("h3", {}, "Virtual switches"),
    table(["Name", "Cards", "MTU", "Ports", ""], switches.map((one) => [
      one.name, (one.pnic || []).map((key) => key.split("-").pop()).join(", ") || "none: leads nowhere",
      String(one.mtu ?? ""), String(one.numPorts ?? ""),
      button("Remove", `switch-${one.name}`, () => act(() =>
        call(SYSTEM, "RemoveVirtualSwitch", { vswitchName: one.name }), one.name, "removed"),
      { question: `Remove the switch ${one.name} and its port groups?` })]), [2, 3]),
    keep.switch,
    h("h3", {}, "Cards of the machine"),
    table(["Name", "MAC", "Driver", "Speed"], (info.pnic || []).map((one) => [
      one.device, h("code", {}, one.mac), one.driver || "",
      one.linkSpeed ? (one.linkSpeed.speedMb > 0 ? `${one.linkSpeed.speedMb} Mb/s` : "not told") : "no link"]), [3]),
    info.dnsConfig ? [h("h3", {}, "Names"), list([["Host name", info.dnsConfig.hostName],
      ["Domain", info.dnsConfig.domainName],
      ["Name servers", (info.dnsConfig.address || []).join(", ")]])] : null].flat();
}
