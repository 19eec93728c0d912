// Accounts, what they may do, and who is logged in.

import { SESSIONS, call, read, ref } from "/ui/api.js";
import { h, table, time } from "/ui/dom.js";
import { button, choice, folded, form, kept, text } from "/ui/forms.js";

const ROOT = ref("Folder", "ha-folder-root");
const AUTHORIZATION = ref("AuthorizationManager", "ha-authmgr");
const ACCOUNTS = ref("HostLocalAccountManager", "ha-localacctmgr");
const DIRECTORY = ref("UserDirectory", "ha-user-directory");
const ANONYMOUS = -4;

const password = (label, name) => text(label, name, { type: "password", autocomplete: "new-password" });

const permit = (principal, role) => call(AUTHORIZATION, "SetEntityPermissions", { entity: ROOT, permission: [{
  principal, group: false, roleId: Number(role), propagate: true }] });

function newAccount(roles, act) {
  return folded("account", "New account", form([
    text("User", "id", { autocomplete: "off", maxlength: 32 }),
    text("Description", "description", { required: false }), password("Password", "password"),
    choice("Role", "role", roles.map((role) => [String(role.roleId), role.name]), "-2")], "Create the account",
  (given) => act(async () => {
    await call(ACCOUNTS, "CreateUser", { user: { _typeName: "HostPosixAccountSpec",
      id: given.id, description: given.description, password: given.password } });
    await permit(given.id, given.role);
  }, given.id, "can log in")));
}

function changeAccount(accounts, roles, act) {
  return folded("permit", "Change a password or a role", form([
    choice("User", "id", accounts.map((one) => [one.principal, one.principal])),
    text("New password", "password", { type: "password", autocomplete: "new-password", required: false }),
    choice("Role", "role", [["", "as it is"], ...roles.map((role) => [String(role.roleId), role.name])])],
  "Change", (given) => act(async () => {
    if (given.password) {
      await call(ACCOUNTS, "UpdateUser", { user: { _typeName: "HostPosixAccountSpec",
        id: given.id, password: given.password } });
    }
    if (given.role) await permit(given.id, given.role);
  }, given.id, "changed")));
}

function ownPassword(user, act) {
  return folded("own", "Change your own password", form([
    text("Present password", "old", { type: "password", autocomplete: "current-password" }),
    password("New password", "new")], "Change your password", (given) => act(() =>
    call(ACCOUNTS, "ChangePassword", { user, oldPassword: given.old, newPassword: given.new }),
  user, "changed; log in with the new password")));
}

function newRole(privileges, act) {
  const chosen = h("select", { multiple: true, size: 10, "aria-label": "Privileges" },
    privileges.map((one) => h("option", {}, one)));
  return folded("role", "New role", form([text("Name", "name", { maxlength: 80 }),
    h("label", {}, "Privileges", chosen)], "Create the role", (given) => act(() =>
    call(AUTHORIZATION, "AddAuthorizationRole", { name: given.name,
      privIds: [...chosen.selectedOptions].map((one) => one.value) }), given.name)));
}

export async function users({ act, keep }) {
  const everyone = { searchStr: "", exactMatch: false, findUsers: true, findGroups: false };
  const [accounts, roles, permissions, sessions, current] = await Promise.all([
    call(DIRECTORY, "RetrieveUserGroups", everyone), read(AUTHORIZATION, "roleList"),
    call(AUTHORIZATION, "RetrieveAllPermissions"), read(SESSIONS, "sessionList").catch(() => []),
    read(SESSIONS, "currentSession")]);
  const names = Object.fromEntries(roles.map((role) => [role.roleId, role.name]));
  const held = (user) => (permissions || []).filter((one) => one.principal === user)
    .map((one) => `${names[one.roleId]} on ${one.entity.value === ROOT.value ? "everything" : one.entity.value}`);
  const given = roles.filter((role) => role.roleId !== ANONYMOUS);
  const known = given.map((role) => [role.roleId, role.name]);
  const account = await kept(keep, "account", known, () => newAccount(given, act));
  const permit = await kept(keep, "permit", [known, (accounts || []).map((one) => one.principal)],
    () => changeAccount(accounts || [], given, act));
  const own = await kept(keep, "own", [current.userName], () => ownPassword(current.userName, act));
  keep.role ||= newRole(roles.find((role) => role.name === "Admin")?.privilege || [], act);
  return [h("h2", {}, "Users"),
    table(["User", "Description", "Role", ""], (accounts || []).map((one) => [
      one.principal, one.fullName, held(one.principal).join(", ") || h("span", { class: "warn" }, "may do nothing"),
      one.principal === "root" ? "" : button("Remove", `remove-${one.principal}`,
        () => act(() => call(ACCOUNTS, "RemoveUser", { userName: one.principal }), one.principal, "removed"),
        { question: `Remove the account ${one.principal}?` })])),
    account, permit, own,
    h("h3", {}, "Sessions"),
    table(["User", "From", "With", "Since", "Last used", ""], (sessions || []).map((one) => [
      one.userName, one.ipAddress, h("span", { class: "any" }, (one.userAgent || "").split(" ")[0]),
      time(one.loginTime), time(one.lastActiveTime),
      one.key === current.key ? "this one" : button("End", `end-${one.key}`, () => act(() =>
        call(SESSIONS, "TerminateSession", { sessionId: [one.key] }), "Session", "ended"))])),
    h("h3", {}, "Roles"),
    table(["Role", "Privileges", ""], roles.map((role) => [role.name,
      h("details", {}, h("summary", {}, `${(role.privilege || []).length}`),
        h("code", {}, (role.privilege || []).join(" "))),
      role.system ? "" : button("Remove", `role-${role.roleId}`, () => act(() => call(AUTHORIZATION,
        "RemoveAuthorizationRole", { roleId: role.roleId, failIfUsed: true }), role.name, "removed"))])),
    keep.role];
}
