// Elements from values. Whatever comes from the host becomes a text node, never markup.

export function h(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return made;
}

export function table(names, rows, numbers = []) {
  if (!rows.length) return h("p", { class: "dim" }, "Nothing here.");
  const cell = (content, place) =>
    h("td", { "data-name": names[place] || null, class: numbers.includes(place) && "number" }, content);
  return h("table", {},
    h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((one, place) => cell(one ?? "", place))))));
}

export const list = (pairs) =>
  h("dl", {}, pairs.filter(([, value]) => value != null && value !== "")
    .map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));

export const hex = (bytes) =>
  Array.from(bytes || [], (one) => (one & 255).toString(16).padStart(2, "0")).join("");

export const time = (text) => (text ? new Date(text).toLocaleString() : "");

export const size = (bytes) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (bytes >= 1024 && place < units.length - 1) { bytes /= 1024; place += 1; }
  return `${bytes.toFixed(bytes < 10 && place ? 1 : 0)} ${units[place]}`;
};

export const coloured = (text, colour) => h("span", { class: colour }, text);
