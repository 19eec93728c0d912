// The page of one VM's console: a ticket, a WebSocket, and a screen.

import { call, read, ref } from "/ui/api.js";
import { h } from "/ui/dom.js";
import { ALT, CONTROL, DELETE } from "/ui/keysym.js";
import { Viewer } from "/ui/rfb.js";

export async function consolePage({ argument }) {
  const vm = ref("VirtualMachine", argument);
  const [name, { ticket }] = await Promise.all([
    read(vm, "name"), call(vm, "AcquireTicket", { ticketType: "webmks" })]);
  const told = h("p", { id: "console-state", class: "dim", role: "status" }, "Connecting…");
  const canvas = h("canvas", {
    tabindex: 0, width: 640, height: 400, role: "application",
    "aria-label": `Screen of ${name}. Keys go to the guest while it has the focus; let go of Control and Alt together to leave it.`,
  });
  const again = h("button", { type: "button", "data-method": "ConnectAgain", hidden: true, onclick: () => dispatchEvent(new Event("hashchange")) },
    "Connect again");
  const viewer = new Viewer(canvas, `wss://${location.host}/ticket/${ticket}`, {
    say: (text) => { told.textContent = text; },
    closed: () => { again.hidden = false; },
  });
  addEventListener("hashchange", () => viewer.close(), { once: true });
  canvas.addEventListener("focus", () => { told.textContent = "Keys go to the guest. Control and Alt together give them back."; });
  canvas.addEventListener("blur", () => { told.textContent = "Click on the screen to type."; });
  return [
    h("p", {}, h("a", { href: `#vm/${encodeURIComponent(argument)}` }, name)),
    h("h2", {}, `Console of ${name}`),
    h("div", { class: "row" },
      h("button", { type: "button", "data-method": "CtrlAltDel", onclick: () => viewer.together(CONTROL, ALT, DELETE) },
        "Send Control+Alt+Delete"),
      h("button", {
        type: "button", "data-method": "FullScreen",
        onclick: () => { canvas.requestFullscreen().then(() => canvas.focus(), (error) => { told.textContent = error.message; }); },
      }, "Full screen"), again),
    told,
    h("div", { class: "screen" }, canvas),
  ];
}
