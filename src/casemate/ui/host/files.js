// One folder of a datastore: look, fetch, bring, make, remove, register.

import { ROOT_POOL, call, members, read, ref, service } from "/ui/api.js";
import { h, size, table, time } from "/ui/dom.js";
import { button, folded, form, text } from "/ui/forms.js";
import { folder } from "/ui/storage.js";

const DATACENTER = ref("Datacenter", "ha-datacenter");
const MANAGER = ref("FileManager", "ha-nfc-file-manager");
const VM_FOLDER = ref("Folder", "ha-folder-vm");
const DETAILS = { fileType: true, fileSize: true, modification: true, fileOwner: false };
const PAUSE = 100;

const split = (path) => {
  const [, store, inside] = /^\[([^\]]+)\] ?(.*?)\/?$/.exec(path) || [null, "", ""];
  return { store, inside };
};
const joined = ({ store, inside }, name) => `[${store}] ${inside ? `${inside}/` : ""}${name}`;
const above = ({ store, inside }) =>
  (inside ? `[${store}] ${inside.split("/").slice(0, -1).join("/")}` : "");

function address(path) {
  const { store, inside } = split(path);
  const steps = inside.split("/").map(encodeURIComponent).join("/");
  return `/folder/${steps}?dcPath=ha-datacenter&dsName=${encodeURIComponent(store)}`;
}

async function search(path) {
  const stores = await members(DATACENTER, "datastore", "Datastore", ["name", "browser"]);
  const found = stores.find((one) => one.name === split(path).store);
  if (!found) throw new Error(`There is no datastore for ${path}.`);
  const task = await call(found.browser, "SearchDatastore_Task", { datastorePath: path,
    searchSpec: { details: DETAILS, sortFoldersFirst: true } });
  for (;;) {
    const info = await read(task, "info");
    if (info.state === "success") return info.result._value?.file ?? info.result.file ?? [];
    if (info.state === "error") throw new Error(info.error.localizedMessage);
    await new Promise((done) => setTimeout(done, PAUSE));
  }
}

async function fetched(path) {
  await service("httpGet", address(path));
  h("a", { href: address(path), download: path.split("/").pop() }).click();
}

async function brought(path, file, told) {
  await service("httpPut", address(path));
  await new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("PUT", address(path));
    request.upload.addEventListener("progress", (event) => {
      told.value = event.total ? event.loaded / event.total : 0;
    });
    request.addEventListener("load", () => (request.status < 300 ? done()
      : failed(new Error(request.responseText || `The host answered ${request.status}.`))));
    request.addEventListener("error", () => failed(new Error("The connection broke off.")));
    request.send(file);
  });
}

function row(place, one, act) {
  const path = joined(place, one.path);
  const inside = one._typeName === "FolderFileInfo";
  const remove = button("Delete", `Delete-${one.path}`, () => act(() => call(MANAGER, "DeleteDatastoreFile_Task",
    { name: path, datacenter: DATACENTER }), one.path, "deleted"),
  { question: inside ? `Delete ${path} and all that is in it?` : `Delete ${path}?` });
  const fetch = !inside && button("Download", `Download-${one.path}`, () => act(() => fetched(path), ""));
  const register = one.path.endsWith(".vmx") && button("Register", `Register-${one.path}`, () => act(() =>
    call(VM_FOLDER, "RegisterVM_Task", { path, asTemplate: false, pool: ROOT_POOL }), one.path, "registered"));
  return [inside ? h("a", { href: folder(path) }, `${one.path}/`) : one.path,
    inside ? "" : size(one.fileSize ?? 0), time(one.modification),
    h("div", { class: "row" }, fetch, register, remove)];
}

export async function files({ argument, act, keep }) {
  const place = split(argument);
  const found = await search(argument);
  const told = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "How much is uploaded" });
  const picker = h("input", { type: "file", name: "file", "aria-label": "File to upload" });
  picker.addEventListener("change", () => {
    const [file] = picker.files;
    told.hidden = false;
    if (file) act(() => brought(joined(place, file.name), file, told), file.name, "uploaded");
  });
  keep.folder ||= folded("folder", "New folder", form([text("Name", "name", { maxlength: 255 })], "Create", ({ name }) =>
    act(() => call(MANAGER, "MakeDirectory", { name: joined(place, name), datacenter: DATACENTER,
      createParentDirectories: false }), name, "created")));
  const up = above(place);
  return [h("p", {}, h("a", { href: "#storage" }, "Storage"), up && [" · ", h("a", { href: folder(up) }, "up")]),
    h("h2", {}, argument), keep.folder,
    h("label", { class: "upload" }, "Upload a file", picker, told),
    table(["Name", "Size", "Changed", ""], found.map((one) => row(place, one, act)), [1])];
}
