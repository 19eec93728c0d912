// Bars and charts as SVG, drawn with attributes alone: the page's policy allows no inline style.

const SPACE = "http://www.w3.org/2000/svg";

function s(tag, attributes, ...children) {
  const made = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const titled = (text) => s("title", {}, text);

// What is used of what there is; marks show what is entitled and what is reserved.
export function bar(label, { used, most, entitled, reserved }) {
  const whole = Math.max(most, used, entitled || 0, reserved || 0, 1);
  const place = (value) => Math.min(100, (100 * value) / whole);
  const parts = [s("rect", { class: "ground", width: 100, height: 10 }),
    s("rect", { class: "used", width: place(used), height: 10 })];
  if (reserved) parts.push(s("rect", { class: "reserved", width: place(reserved), y: 8, height: 2 }));
  if (entitled) {
    parts.push(s("rect", { class: "entitled", x: Math.max(0, place(entitled) - 0.8), width: 1.6, height: 10 }));
  }
  return s("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none",
    role: "img", "aria-label": label }, titled(label), ...parts);
}

// One line of samples, the newest at the right, with its highest value written beside it.
export function chart(label, values, unit) {
  const highest = Math.max(...values, 1);
  const step = values.length > 1 ? 300 / (values.length - 1) : 300;
  const points = values.map((value, place) =>
    `${(place * step).toFixed(1)},${(58 - (54 * value) / highest).toFixed(1)}`);
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const now = values.length ? values[values.length - 1] : 0;
  caption.textContent = `${label}: ${unit(now)} now, ${unit(Math.max(...values, 0))} at most`;
  figure.append(s("svg", { class: "chart", viewBox: "0 0 300 60", preserveAspectRatio: "none",
    role: "img", "aria-label": caption.textContent },
    s("polygon", { class: "area", points: ["0,60", ...points, "300,60"].join(" ") }),
    s("polyline", { class: "line", points: points.join(" ") })), caption);
  return figure;
}

// Stages in their order, each with how many events it left; an arrow leads from one to the next.
export function chain(stages) {
  const [wide, gap, high] = [120, 34, 56];
  const parts = stages.flatMap(({ name, events }, place) => {
    const x = place * (wide + gap) + 1;
    const label = (text, y, kind) => {
      const made = s("text", { x: x + wide / 2, y, class: kind });
      made.textContent = text;
      return made;
    };
    const arrow = place ? [s("path", { class: "arrow", d: `M${x - gap + 3} ${high / 2 + 1}h${gap - 10}m-6 -5l6 5l-6 5` })] : [];
    return [...arrow, s("rect", { class: "stage", x, y: 1, width: wide, height: high, rx: 6 }),
      label(name, 25, "name"), label(`${events} ${events === 1 ? "event" : "events"}`, 44, "many")];
  });
  const width = stages.length * (wide + gap) - gap + 2;
  const told = stages.map(({ name, events }) => `${name}: ${events}`).join(", then ");
  const made = s("svg", { class: "chain", width, height: high + 2,
    role: "img", "aria-label": told }, ...parts);
  const around = document.createElement("div");
  around.className = "scroll";
  around.append(made);
  return around;
}
