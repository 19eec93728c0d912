// The shell: which page is shown, who is logged in, and what is refreshed.

import { HOST, SESSIONS, Fault, login, logout, read, session } from "/ui/api.js";
import { h } from "/ui/dom.js";
import * as pages from "/ui/pages.js";

const TITLES = {
  vms: "Virtual machines", pools: "Resource pools", storage: "Storage", network: "Network",
  users: "Users", packages: "Packages",
  measurements: "Measurements", activity: "Tasks and events", hardening: "Hardening",
};
const LIVE = new Set(["vms", "vm", "pools", "storage", "activity"]);
const REFRESH = 3000;
const STATUS = 6000;

const place = (id) => document.getElementById(id);
let shown = "";
let turn = 0;
let keep = {};

function say(text) {
  place("status").textContent = text;
  clearTimeout(say.timer);
  if (text) say.timer = setTimeout(() => say(""), STATUS);
}

async function act(work, done) {
  try {
    await work();
    say(done);
    await show();
  } catch (error) {
    failed(error);
  }
}

function failed(error) {
  if (error instanceof Fault && error.kind === "NotAuthenticated") {
    session.id = "";
    show();
  } else {
    say(error.message);
  }
}

function loginForm() {
  const field = (label, name, type, auto) => h("label", {}, label,
    h("input", { name, type, autocomplete: auto, required: true }));
  const form = h("form", {}, h("h2", {}, "Log in"),
    field("User", "user", "text", "username"),
    field("Password", "password", "password", "current-password"),
    h("button", { class: "first" }, "Log in"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const given = new FormData(form);
    act(() => login(given.get("user"), given.get("password")), "");
  });
  return form;
}

function navigation(page) {
  place("nav").replaceChildren(...Object.entries(TITLES).map(([name, title]) =>
    h("a", { href: `#${name}`, "aria-current": (name === page || (["vm", "console"].includes(page) && name === "vms")) && "page" }, title)));
}

async function who() {
  const [current, name] = await Promise.all([
    read(SESSIONS, "currentSession"), read(HOST, "name")]);
  place("host").textContent = name;
  place("who").replaceChildren(h("span", {}, `${current.userName} `),
    h("button", { type: "button", onclick: () => act(logout, "Logged out") }, "Log out"));
}

async function show() {
  const mine = ++turn;
  const main = place("main");
  if (!session.id) {
    place("nav").replaceChildren();
    place("who").replaceChildren();
    place("host").textContent = "";
    shown = "login";
    main.replaceChildren(loginForm());
    main.querySelector("input").focus();
    return;
  }
  const [page, argument] = (location.hash.slice(1) || "vms").split("/").map(decodeURIComponent);
  const name = Object.hasOwn(pages, page) ? page : "vms";
  if (shown !== location.hash + name) keep = {};
  navigation(name);
  try {
    const [content] = await Promise.all([pages[name]({ argument, act, keep }), who()]);
    if (mine !== turn) return;
    const focused = document.activeElement?.dataset?.method;
    main.replaceChildren(...content);
    document.title = `${TITLES[name] || "Virtual machine"} - Casemate`;
    if (shown !== location.hash + name) main.focus();
    else if (focused) main.querySelector(`[data-method="${focused}"]`)?.focus();
    shown = location.hash + name;
    document.body.dataset.ready = name;
  } catch (error) {
    if (mine === turn) failed(error);
  }
}

addEventListener("hashchange", show);
setInterval(() => {
  const page = location.hash.slice(1).split("/")[0] || "vms";
  if (session.id && !document.hidden && LIVE.has(page)) show();
}, REFRESH);
show();
