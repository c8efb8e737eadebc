"use strict";
// Text from data enters the page through textContent and attributes only, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

// Symbols of types, as figures have them.
const SHAPES = [
  "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0", "M-4-4h8v8h-8z", "M0-5l5 9h-10z", "M0-5.5l5.5 5.5l-5.5 5.5l-5.5-5.5z",
  "M0 5l5-9h-10z", "M-1.8-5h3.6v3.2h3.2v3.6h-3.2v3.2h-3.6v-3.2h-3.2v-3.6h3.2z",
  "M-5-2.5l2.5-2.5l2.5 2.5l2.5-2.5l2.5 2.5l-2.5 2.5l2.5 2.5l-2.5 2.5l-2.5-2.5l-2.5 2.5l-2.5-2.5l2.5-2.5z",
];

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// A thumbnail of the page's sheets, by its place.
function fromSheet(place, side) {
  const element = make("span", { class: "thumb" }), style = element.style;
  const { per_row: perRow, per_sheet: perSheet } = data.sheet, k = place % perSheet;
  element.classList.add(`s${Math.floor(place / perSheet)}`);
  style.width = style.height = `${side}px`;
  style.backgroundSize = `${perRow * side}px auto`;
  style.backgroundPosition = `${-(k % perRow) * side}px ${-Math.floor(k / perRow) * side}px`;
  return element;
}

// Whether a point lies within a line that is closed.
function isInside([x, y], path) {
  let inside = false;
  for (let a = 0, b = path.length - 1; a < path.length; b = a++) {
    const [ax, ay] = path[a], [bx, by] = path[b];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

// A spreadsheet runs cells that begin so; an apostrophe stops it, see the package's csv_text.
function csvCell(value) {
  let text = value === null || value === undefined ? "" : String(value);
  if (typeof value === "string" && /^'*(?:[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]|$)/.test(text) && text) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const csvTable = (rows) => rows.map((row) => row.map(csvCell).join(",")).join("\r\n") + "\r\n";

function download(text, name, type = "text/csv") {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = make("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
