// The shell: which page is shown, who is logged in, and what is refreshed.

import { HOST, SESSIONS, Fault, login, logout, read, session } from "/ui/api.js";
import { h } from "/ui/dom.js";
import * as pages from "/ui/pages.js";

const TITLES = {
  host: "Host", vms: "Virtual machines", pools: "Resource pools", storage: "Storage", network: "Network",
  users: "Users", packages: "Packages",
  measurements: "Measurements", activity: "Tasks and events", hardening: "Hardening",
  certificate: "Certificate",
};
const UNDER = { vm: "vms", console: "vms", files: "storage" };
const LIVE = new Set(["host", "vms", "vm", "pools", "storage", "activity"]);
const REFRESH = 3000;
const STATUS = 6000;
const PAUSE = 300;

const place = (id) => document.getElementById(id);
let shown = "";
let turn = 0;
let keep = {};

function say(text, kind = "") {
  place("status").textContent = text;
  place("status").className = kind;
  clearTimeout(say.timer);
  if (text) say.timer = setTimeout(() => say(""), STATUS);
}

// Tells how far a task is, until it ends. Raises what it failed with.
async function follow(task, what) {
  for (;;) {
    const info = await read(task, "info");
    if (info.state === "success") return;
    if (info.state === "error") throw new Error(`${what}: ${info.error.localizedMessage}`);
    say(`${what}: ${info.progress != null ? `${info.progress} %` : info.state}`);
    await new Promise((done) => setTimeout(done, PAUSE));
  }
}

// Does something, says how it ended and shows the page as it is then, or another one.
// Returns whether it worked.
async function act(work, what, done = "done", next = "") {
  try {
    const answer = await work();
    if (answer && answer.type === "Task") await follow(answer, what);
    say(what && `${what}: ${done}`);
    if (next) location.hash = next;
    else await show();
    return true;
  } catch (error) {
    failed(error);
    return false;
  }
}

function failed(error) {
  if (error instanceof Fault && error.kind === "NotAuthenticated") {
    session.id = "";
    show();
  } else {
    say(error.message, "failure");
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

// Drawn only when another page is shown: on a phone it is scrolled, and would jump back.
function navigation(page) {
  const nav = place("nav");
  const current = UNDER[page] || page;
  if (nav.querySelector("[aria-current]")?.hash === `#${current}`) return;
  nav.replaceChildren(...Object.entries(TITLES).map(([name, title]) =>
    h("a", { href: `#${name}`, "aria-current": name === current && "page" }, title)));
  const chosen = nav.querySelector("[aria-current]");
  nav.scrollLeft = chosen.offsetLeft + chosen.offsetWidth / 2 - nav.clientWidth / 2;
}

async function who() {
  const [current, name] = await Promise.all([
    read(SESSIONS, "currentSession"), read(HOST, "name")]);
  place("host").textContent = name;
  place("who").replaceChildren(h("span", {}, `${current.userName} `),
    h("button", { type: "button", onclick: () => act(logout, "Session", "ended") }, "Log out"));
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
  const [page, argument] = (location.hash.slice(1) || "host").split("/").map(decodeURIComponent);
  const name = Object.hasOwn(pages, page) ? page : "host";
  if (shown !== location.hash + name) keep = {};
  navigation(name);
  try {
    const [content] = await Promise.all([pages[name]({ argument, act, keep }), who()]);
    if (mine !== turn) return;
    const focused = document.activeElement?.dataset?.method;
    main.replaceChildren(...content.flat(Infinity).filter((one) => one != null && one !== false));
    document.title = `${TITLES[UNDER[name] || name]} - Casemate`;
    if (shown !== location.hash + name) {
      main.focus({ preventScroll: true });
      scrollTo(0, 0);
    } else if (focused) main.querySelector(`[data-method="${focused}"]`)?.focus();
    shown = location.hash + name;
    document.body.dataset.ready = name;
  } catch (error) {
    if (mine === turn) failed(error);
  }
}

addEventListener("hashchange", show);
setInterval(() => {
  const page = location.hash.slice(1).split("/")[0] || "host";
  if (session.id && !document.hidden && LIVE.has(page)) show();
}, REFRESH);
show();
