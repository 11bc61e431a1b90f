// Elements and numbers as the panes make them. Text only ever goes in through textContent and attributes.

const root = document.getElementById("viewer");
const byId = (id) => document.getElementById(id);
const all = (selector, inside = root) => [...inside.querySelectorAll(selector)];
const fill = (el, attributes, children) => {
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) el.setAttribute(key, value);
  el.append(...children.filter((child) => child !== null));
  return el;
};
const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// Numbers as they are read: three digits.
const brief = (x) => (Number.isFinite(x) ? String(Number(x.toPrecision(3))) : "–");
const percent = (x) => (!Number.isFinite(x) ? "–" : x > 0 && x < 1e-6 ? "<0.0001%" : `${Number((x * 100).toPrecision(3))}%`);
const ms = (x) => brief(x * 1e3);
const nats = (x) => (Number.isFinite(x) ? x.toFixed(2) : "–");
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

// Text cut to a width in letters; wide scripts count double.
const fit = (text, room = 10) => {
  let used = 0, out = "";
  for (const c of text) { used += c.codePointAt(0) > 0x2e7f ? 2 : 1; if (used > room) return `${out}…`; out += c; }
  return out;
};
