// The host beside its VMs: storage, network, users.

import { call, members, read, ref } from "/ui/api.js";
import { bar } from "/ui/drawing.js";
import { h, list, size, table, time } from "/ui/dom.js";

const DATACENTER = ref("Datacenter", "ha-datacenter");
const ROOT = ref("Folder", "ha-folder-root");
const AUTHORIZATION = ref("AuthorizationManager", "ha-authmgr");
const ACCOUNTS = ref("HostLocalAccountManager", "ha-localacctmgr");
const DIRECTORY = ref("UserDirectory", "ha-user-directory");

export async function storage() {
  const [stores, devices] = await Promise.all([
    members(DATACENTER, "datastore", "Datastore", ["summary", "vm"]),
    read(ref("HostStorageSystem", "storageSystem"), "storageDeviceInfo")]);
  return [h("h2", {}, "Storage"), h("h3", {}, "Datastores"),
    table(["Name", "Used", "Free", "Capacity", "VMs", "Place"],
      stores.map(({ summary, vm }) => {
        const used = summary.capacity - summary.freeSpace;
        return [summary.name,
          bar(`${size(used)} of ${size(summary.capacity)} used`, { used, most: summary.capacity }),
          size(summary.freeSpace), size(summary.capacity), String((vm || []).length),
          h("code", {}, summary.url)];
      }), [2, 3, 4]),
    h("h3", {}, "Disks of the machine"),
    table(["Name", "Model", "Size", "Kind"], (devices.scsiLun || []).map((one) => [
      h("code", {}, one.canonicalName), [one.vendor, one.model].filter(Boolean).join(" "),
      one.capacity ? size(one.capacity.block * one.capacity.blockSize) : "",
      one.ssd ? "flash" : "rotating"]), [2])];
}

export async function network() {
  const [networks, info] = await Promise.all([
    members(DATACENTER, "network", "Network", ["name", "vm"]),
    read(ref("HostNetworkSystem", "networkSystem"), "networkInfo")]);
  return [h("h2", {}, "Network"), h("h3", {}, "Networks"),
    table(["Name", "VMs"], networks.map(({ name, vm }) => [name, String((vm || []).length)]), [1]),
    h("h3", {}, "Virtual switches"),
    table(["Name", "Port groups", "Cards", "MTU"], (info.vswitch || []).map((one) => [
      one.name, (info.portgroup || []).filter((group) => group.spec.vswitchName === one.name)
        .map((group) => `${group.spec.name}${group.spec.vlanId ? ` (VLAN ${group.spec.vlanId})` : ""}`)
        .join(", "),
      (one.pnic || []).map((key) => key.split("-").pop()).join(", "), String(one.mtu ?? "")]), [3]),
    h("h3", {}, "Cards of the machine"),
    table(["Name", "MAC", "Driver", "Speed"], (info.pnic || []).map((one) => [
      one.device, h("code", {}, one.mac), one.driver || "",
      one.linkSpeed ? `${one.linkSpeed.speedMb} Mb/s` : "no link"]), [3]),
    info.dnsConfig ? list([["Host name", info.dnsConfig.hostName],
      ["Domain", info.dnsConfig.domainName],
      ["Name servers", (info.dnsConfig.address || []).join(", ")]]) : null];
}

function newAccount(roles, act) {
  const field = (label, name, more) => h("label", {}, label, h("input", { name, required: true, ...more }));
  const form = h("form", { class: "wide" },
    field("User", "id", { autocomplete: "off", maxlength: 32 }), field("Description", "description", { required: false }),
    field("Password", "password", { type: "password", autocomplete: "new-password" }),
    h("label", {}, "Role", h("select", { name: "role" }, roles.map((role) =>
      h("option", { value: role.roleId, selected: role.name === "ReadOnly" }, role.name)))),
    h("button", { class: "first" }, "Create the account"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(form));
    act(async () => {
      await call(ACCOUNTS, "CreateUser", { user: { _typeName: "HostPosixAccountSpec",
        id: given.id, description: given.description, password: given.password } });
      await call(AUTHORIZATION, "SetEntityPermissions", { entity: ROOT, permission: [{
        principal: given.id, group: false, roleId: Number(given.role), propagate: true }] });
    }, `${given.id} can log in`);
  });
  return h("details", {}, h("summary", {}, "New account"), form);
}

export async function users({ act, keep }) {
  const everyone = { searchStr: "", exactMatch: false, findUsers: true, findGroups: false };
  const [accounts, roles, permissions] = await Promise.all([
    call(DIRECTORY, "RetrieveUserGroups", everyone), read(AUTHORIZATION, "roleList"),
    call(AUTHORIZATION, "RetrieveAllPermissions")]);
  const names = Object.fromEntries(roles.map((role) => [role.roleId, role.name]));
  const held = (user) => (permissions || []).filter((one) => one.principal === user)
    .map((one) => `${names[one.roleId]} on ${one.entity.value === ROOT.value ? "everything" : one.entity.value}`);
  keep.account ||= newAccount(roles.filter((role) => role.roleId !== -4), act);
  const sessions = await read(ref("SessionManager", "ha-sessionmgr"), "sessionList").catch(() => []);
  return [h("h2", {}, "Users"),
    table(["User", "Description", "Role", ""], (accounts || []).map((one) => [
      one.principal, one.fullName, held(one.principal).join(", ") || h("span", { class: "warn" }, "may do nothing"),
      one.principal === "root" ? "" : h("button", { type: "button", "data-remove": one.principal,
        onclick: () => confirm(`Remove the account ${one.principal}?`)
          && act(() => call(ACCOUNTS, "RemoveUser", { userName: one.principal }), "Removed") }, "Remove")])),
    keep.account,
    h("h3", {}, "Sessions"),
    table(["User", "From", "Since", "Last used"], (sessions || []).map((one) => [
      one.userName, one.ipAddress, time(one.loginTime), time(one.lastActiveTime)])),
    h("h3", {}, "Roles"),
    table(["Role", "Privileges"], roles.map((role) => [role.name,
      h("details", {}, h("summary", {}, `${(role.privilege || []).length}`),
        h("code", {}, (role.privilege || []).join(" ")))]))];
}

