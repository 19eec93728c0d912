// Forms: labelled fields, and their values as one object when they are sent.

import { h } from "/ui/dom.js";

const labelled = (label, field) => h("label", {}, label, field);

export const text = (label, name, more = {}) => labelled(label, h("input", { name, required: true, ...more }));

export const number = (label, name, value, { min = 0, max = Number.MAX_SAFE_INTEGER } = {}) =>
  text(label, name, { type: "number", min, max, value });

export const choice = (label, name, options, chosen) => labelled(label, h("select", { name },
  options.map(([value, shown]) => h("option", { value, selected: value === chosen }, shown))));

export const tick = (label, name, checked = false) =>
  h("label", { class: "tick" }, h("input", { type: "checkbox", name, checked }), label);

// `send` gets the values and says whether it worked: the form is empty again then.
export function form(fields, label, send) {
  const made = h("form", { class: "wide" }, fields, h("button", { class: "first" }, label));
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await send(Object.fromEntries(new FormData(made)))) {
      made.reset();
      made.closest("details")?.removeAttribute("open");
    }
  });
  return made;
}

export const folded = (id, title, ...content) =>
  h("details", { id }, h("summary", {}, title), content);

// A form lives as long as what it was made of: refreshing the page leaves what is typed in it.
export async function kept(keep, name, source, make) {
  const mark = JSON.stringify(source);
  if (keep[name]?.mark !== mark) keep[name] = { mark, made: await make() };
  return keep[name].made;
}

// A button that does one thing, after a question where there is no way back.
export const button = (label, method, work, { question = "", disabled = false } = {}) => h("button", {
  type: "button", "data-method": method, disabled,
  onclick: () => (!question || confirm(question)) && work(),
}, label);
