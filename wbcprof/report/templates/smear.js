const UNSURE = -1, UNLIKE = -2, CUT = -3, REJECTED = -4;
const ASIDE = { [UNSURE]: "unsure", [UNLIKE]: "unlike any type", [CUT]: "cut by the edge", [REJECTED]: "no leukocyte" };
const GREY = "#767676";
const view = at("view"), cells = data.cells, n = cells.id.length;

// What a person says: `named` of found cells, `missed` cells in the order they were marked.
let named = {}, missed = [], history = [];
let slide = 0, field = -1, selected = -1, marking = false, cross = null, box = null;

// Cells are numbers: below n found ones, from n on those that were marked.
const marked = (i) => missed[i - n];
const typeOf = (i) => (i >= n ? marked(i).type : i in named ? named[i] : cells.call[i]);
const isSaid = (i) => i >= n || i in named || cells.given[i] === 1;
const slideOf = (i) => data.fields.slide[fieldOf(i)];
const fieldOf = (i) => (i >= n ? marked(i).field : cells.field[i]);
const typeName = (type) => (type >= 0 ? data.types[type].name : ASIDE[type]);
const colour = (type) => (type >= 0 ? data.types[type].colour : GREY);
const everyone = () => [...Array(n + missed.length).keys()];
const ofField = (f) => {
  const found = byField[f] || [];
  return [...found, ...missed.flatMap((m, k) => (m.field === f ? [n + k] : []))];
};
const byField = {};
cells.field.forEach((f, i) => (byField[f] = byField[f] || []).push(i));

function boxOf(i) {
  if (i < n) return cells.box[i];
  const { x, y, field: f } = marked(i), half = data.fields.cell[f] / 2;
  return [x - half, y - half, x + half, y + half];
}

// ---- numbers ----

function logGamma(x) {
  const c = [76.18009172947146, -86.50532032941677, 24.01409824083091, -1.231739572450155, 0.1208650973866179e-2, -0.5395239384953e-5];
  const base = x + 5.5 - (x + 0.5) * Math.log(x + 5.5);
  return Math.log((2.5066282746310005 * c.reduce((sum, value, k) => sum + value / (x + k + 1), 1.000000000190015)) / x) - base;
}

// Regularised incomplete beta function, by its continued fraction (Lentz).
function betaIncomplete(x, a, b) {
  if (x <= 0 || x >= 1) return x <= 0 ? 0 : 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - betaIncomplete(1 - x, b, a);
  const front = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log(1 - x)) / a;
  const tiny = 1e-300;
  let c = 1, d = 1 / (1 - ((a + b) * x) / (a + 1) || tiny), sum = d;
  for (let m = 1; m < 300; m++) {
    for (const term of [(m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m)), (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1))]) {
      d = 1 / (1 + term * d || tiny);
      c = 1 + term / c || tiny;
      sum *= c * d;
    }
    if (Math.abs(c * d - 1) < 1e-12) break;
  }
  return front * sum;
}

function betaQuantile(p, a, b) {
  let low = 0, high = 1;
  for (let k = 0; k < 60; k++) {
    const middle = (low + high) / 2;
    if (betaIncomplete(middle, a, b) < p) low = middle; else high = middle;
  }
  return (low + high) / 2;
}

// Clopper and Pearson; counts need not be whole.
function limits(count, total) {
  const tail = (1 - data.confidence) / 2;
  return [
    count > 0 ? betaQuantile(tail, count, total - count + 1) : 0,
    count < total ? betaQuantile(1 - tail, count + 1, total - count) : 1,
  ];
}

function needed(count, total) {
  const share = total ? count / total : 0.5;
  const enough = (m) => {
    const [low, high] = limits(share * m, m);
    return high - low <= 2 * data.precision;
  };
  let few = 0, many = 1;
  while (!enough(many)) [few, many] = [many, 2 * many];
  while (many - few > 1) {
    const middle = (few + many) >> 1;
    if (enough(middle)) many = middle; else few = middle;
  }
  return Math.max(0, many - total);
}

const percent = (x) => `${(100 * x).toFixed(1)} %`;
const range = ([low, high]) => `${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)} %`;
const ratio = (x) => (Number.isFinite(x) ? x.toFixed(2) : "\u221e");
const odds = (p) => p / (1 - p);

// ---- the count ----

function countOf(s) {
  const counts = data.types.map(() => 0), aside = { [UNSURE]: 0, [UNLIKE]: 0, [CUT]: 0, [REJECTED]: 0 };
  let found = 0, unnamed = 0;
  for (const i of everyone()) {
    if (slideOf(i) !== s) continue;
    const type = typeOf(i);
    if (type >= 0) counts[type]++;
    else if (i < n) aside[type]++;
    else unnamed++;
    found += i < n;
  }
  const total = counts.reduce((a, b) => a + b, 0);
  return { counts, aside, found, total, missed: missed.filter((m) => data.fields.slide[m.field] === s).length, unnamed };
}

function showCount() {
  const own = countOf(slide), info = data.slides[slide];
  const touched = missed.some((m) => data.fields.slide[m.field] === slide) || Object.keys(named).some((i) => slideOf(+i) === slide && named[i] !== cells.call[i]);
  at("counts").tBodies[0].replaceChildren(...data.types.map((type, t) => {
    const key = make("span", { class: "key" });
    key.style.background = type.colour;
    const corrected = info.corrected && info.corrected[t];
    const stale = touched ? { class: "stale" } : {};
    const td = (text, attributes = {}) => make("td", attributes, text);
    return make("tr", {}, make("th", { scope: "row" }, key, type.name), td(String(own.counts[t])),
      td(own.total ? percent(own.counts[t] / own.total) : "\u2013"), td(own.total ? range(limits(own.counts[t], own.total)) : "\u2013"),
      td(corrected ? percent(corrected[0]) : "\u2013", stale), td(corrected ? range([corrected[1], corrected[2]]) : "\u2013", stale),
      td(String(needed(own.counts[t], own.total))));
  }));
  const sum = (members) => members.reduce((s, t) => s + own.counts[t], 0);
  const a = sum(data.neutrophils), b = sum(data.lymphocytes);
  at("nlr").textContent = a + b === 0 ? "Neutrophil-to-lymphocyte ratio: neither was counted."
    : `Neutrophil-to-lymphocyte ratio ${ratio(a / b)} (${limits(a, a + b).map((p) => ratio(odds(p))).join(" to ")}), from ${a} neutrophils and ${b} lymphocytes.`;
  at("corrected-note").textContent = touched
    ? "* For the calls before they were corrected here: what a person names needs no correction for the classifier's mistakes."
    : `* ${info.corrected_note}`;
  const facts = [["counted", own.total], ["unsure", own.aside[UNSURE]], ["unlike any type", own.aside[UNLIKE]], ["cut by the edge", own.aside[CUT]],
    ["rejected", own.aside[REJECTED]], [`${info.unit}s`, info.n_fields], [`leukocytes a ${info.unit}`, info.per_field], [`red cells a ${info.unit}`, info.red_cells]];
  at("facts").replaceChildren(...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))));
  const right = own.found - own.aside[REJECTED], all = right + own.missed;
  at("location").textContent = all === 0 ? "Cell location: nothing was found, and nothing marked as missed."
    : `Cell location: ${right} found, ${own.missed} marked as missed: ${percent(right / all)} located (${range(limits(right, all))}); ` +
      `${own.aside[REJECTED]} of ${own.found} found are no leukocytes.` + (own.unnamed ? ` ${own.unnamed} marked cells have no type yet.` : "");
  const done = Object.keys(named).length + missed.length;
  at("edited").textContent = done ? `${done} ${done === 1 ? "cell" : "cells"} checked by a person` : "";
}

// ---- the gallery ----

const buttons = new Map();

function thumb(i, side) {
  if (i >= n) return pictureOf(i, side);
  return fromSheet(cells.thumb[i], side);
}

// A marked cell, out of the picture of its field.
function pictureOf(i, side) {
  const [left, top, right, bottom] = boxOf(i), margin = (right - left) / 2;
  const small = draw("svg", { width: side, height: side, viewBox: [left - margin, top - margin, 2 * (right - left), 2 * (bottom - top)].join(" ") });
  small.append(...picture(fieldOf(i)));
  return small;
}

function describe(i) {
  if (i >= n) return `Marked as missed, ${typeOf(i) >= 0 ? typeName(typeOf(i)) : "no type yet"}`;
  const now = typeOf(i), type = cells.type[i];
  const model = `${typeName(type)}${cells.p[i] === null ? "" : `, probability ${cells.p[i].toFixed(2)}`}`;
  if (i in named ? named[i] !== cells.call[i] : cells.given[i]) return `${typeName(now)} by a person; the model: ${model}`;
  return cells.call[i] >= 0 ? `called ${model}` : `${typeName(cells.call[i])}; nearest ${model}`;
}

// Groups in the order of the types, then what is set aside; in each, doubtful cells first.
function groups() {
  const own = everyone().filter((i) => slideOf(i) === slide && (i >= n || cells.thumb[i] >= 0));
  const doubt = (i) => (i >= n ? 2 : cells.doubt[i]);
  return [UNLIKE, UNSURE, ...data.types.keys(), CUT, REJECTED].map((type) => [
    type, own.filter((i) => typeOf(i) === type).sort((i, j) => doubt(j) - doubt(i) || i - j),
  ]).filter(([, some]) => some.length);
}

function showGallery() {
  buttons.clear();
  const parts = groups().flatMap(([type, some]) => {
    const key = make("span", { class: "key" });
    key.style.background = colour(type);
    const heading = make("h3", {}, key, typeName(type), make("small", {}, String(some.length)));
    return [heading, make("div", { class: "cells" }, ...some.map(thumbButton))];
  });
  const rest = cells.thumb.filter((place, i) => place < 0 && slideOf(i) === slide).length;
  if (rest) parts.push(make("p", { class: "hint" }, `${rest} more cells, the least doubtful, are counted and not shown here; fields show them.`));
  const hadFocus = at("gallery").contains(document.activeElement);
  at("gallery").replaceChildren(...(parts.length ? parts : [make("p", { class: "hint" }, "No leukocyte was found on this slide.")]));
  markSelected();
  if (hadFocus && buttons.has(selected)) buttons.get(selected).focus({ preventScroll: true });
}

function thumbButton(i) {
  const button = make("button", { type: "button", title: describe(i), "aria-label": describe(i) }, thumb(i, data.sheet.side));
  button.addEventListener("click", () => select(i));
  buttons.set(i, button);
  return button;
}

function markSelected() {
  for (const [i, button] of buttons) {
    button.classList.toggle("selected", i === selected);
    button.classList.toggle("checked", isSaid(i) && typeOf(i) === cells.call[i]);
    button.classList.toggle("changed", isSaid(i) && typeOf(i) !== cells.call[i]);
  }
}

// The way through the cells of a slide: as they were grouped when it was opened, so that each is
// met once, whatever it is named; then marked ones.
let way = [];
const order = () => [...way, ...everyone().slice(n).filter((i) => slideOf(i) === slide)];

// ---- the field ----

function frame(f) {
  return [0, 0, data.fields.width[f], data.fields.height[f]];
}

function showField(f, window = null) {
  field = f;
  cross = null;
  box = window || frame(f);
  const uri = data.fields.uri[f];
  at("no-picture").hidden = Boolean(uri);
  at("no-picture").textContent = uri ? "" : "This field's picture is not in the page, to keep it small.";
  paintField();
  document.querySelectorAll("#overview button").forEach((b) => b.classList.toggle("selected", Number(b.dataset.field) === f));
}

function shapes(f) {
  return ofField(f).map((i) => {
    const [left, top, right, bottom] = boxOf(i), type = typeOf(i);
    const rect = draw("rect", { class: `cell${i === selected ? " selected" : ""}${type < 0 ? " aside" : ""}`, x: left, y: top, width: right - left, height: bottom - top, stroke: colour(type) });
    rect.dataset.cell = i;
    return rect;
  });
}

function picture(f) {
  const uri = data.fields.uri[f];
  return uri ? [draw("image", { href: uri, width: data.fields.width[f], height: data.fields.height[f], preserveAspectRatio: "none" })] : [];
}

function paintField() {
  if (field < 0) return;
  view.setAttribute("viewBox", box.join(" "));
  const parts = [...picture(field), ...shapes(field)];
  if (marking && cross) {
    const r = data.fields.cell[field] / 2, [x, y] = cross;
    parts.push(draw("path", { class: "cross", d: `M${x - r} ${y}h${2 * r}M${x} ${y - r}v${2 * r}` }));
  }
  view.replaceChildren(...parts);
  view.classList.toggle("marking", marking);
}

function zoom(factor, about = null) {
  if (field < 0) return;
  const [x, y, w, h] = box, [cx, cy] = about || [x + w / 2, y + h / 2], [, , W, H] = frame(field);
  const nw = Math.min(Math.max(w * factor, 20), W * 1.5), nh = (nw * h) / w;
  box = [cx - ((cx - x) * nw) / w, cy - ((cy - y) * nh) / h, nw, nh];
  box[0] = Math.min(Math.max(box[0], -nw / 2), W - nw / 2);
  box[1] = Math.min(Math.max(box[1], -nh / 2), H - nh / 2);
  paintField();
}

function pointOf(event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(view.getScreenCTM().inverse());
  return [point.x, point.y];
}

function mark([x, y]) {
  const [, , W, H] = frame(field);
  if (x < 0 || y < 0 || x > W || y > H) return;
  remember();
  missed.push({ field, x, y, type: UNSURE });
  setMarking(false);
  changed(field);
  select(n + missed.length - 1, false);
}

function setMarking(on) {
  marking = on && field >= 0;
  cross = marking ? [box[0] + box[2] / 2, box[1] + box[3] / 2] : null;
  at("mark").setAttribute("aria-pressed", String(marking));
  at("hint").textContent = marking ? "Click on the missed leukocyte, or move the cross with the arrow keys and press Enter. Escape leaves." : "";
  if (marking) view.focus({ preventScroll: true });
  paintField();
}

// ---- the selected cell ----

const within = (value, most) => Math.min(Math.max(value, 0), Math.max(most, 0));

function select(i, move = true, scroll = true) {
  selected = i;
  const f = fieldOf(i), [left, top, right, bottom] = boxOf(i);
  if (data.fields.slide[f] !== slide) setSlide(data.fields.slide[f]);
  const [, , W, H] = frame(f), side = Math.min(3 * Math.max(right - left, bottom - top), W, H), w = Math.min((side * 4) / 3, W);
  if (move || f !== field) showField(f, [within((left + right - w) / 2, W - w), within((top + bottom - side) / 2, H - side), w, side]);
  else paintField();
  showWhat();
  markSelected();
  const button = buttons.get(i);
  if (button && scroll) button.scrollIntoView({ block: "nearest" });
}

function showWhat() {
  if (selected < 0) {
    at("what").textContent = "No cell selected.";
    at("buttons").replaceChildren();
    return;
  }
  const i = selected, parts = [make("b", {}, i < n ? cells.id[i] : data.fields.id[marked(i).field]), make("br"), describe(i)];
  if (i < n) {
    const more = [];
    if (cells.novelty[i] !== null) more.push(`as strange: ${percent(cells.novelty[i])} of known cells`);
    if (cells.diameter[i] !== null) more.push(`${cells.diameter[i].toFixed(1)} \u00b5m across`);
    if (cells.flags[i]) more.push(cells.flags[i]);
    if (more.length) parts.push(make("br"), make("small", {}, more.join("; ")));
  }
  at("what").replaceChildren(...parts);
  const choices = [...data.types.map((type, t) => [t, t < 9 ? String(t + 1) : "", type.name]), [UNSURE, "U", "leave open"], [REJECTED, "X", i < n ? "no leukocyte" : "remove mark"]];
  at("buttons").replaceChildren(...choices.map(([type, key, text]) => {
    const button = make("button", { type: "button", "aria-pressed": String(typeOf(i) === type) }, text, ...(key ? [" ", make("kbd", {}, key)] : []));
    button.style.borderLeftColor = colour(type);
    button.addEventListener("click", () => say(type));
    return button;
  }));
}

function remember() {
  history.push(JSON.stringify([named, missed]));
  if (history.length > 500) history.shift();
}

function say(type) {
  if (selected < 0) return;
  const i = selected, f = fieldOf(i), following = order()[order().indexOf(i) + 1];
  remember();
  if (i < n) named[i] = type;
  else if (type === REJECTED) {
    missed.splice(i - n, 1);
    selected = -1;
  } else marked(i).type = type;
  changed(f);
  if (i < n && following !== undefined) select(following);
  else if (selected >= 0) select(selected, false);
  else {
    showWhat();
    paintField();
  }
}

function undo() {
  if (!history.length) return;
  [named, missed] = JSON.parse(history.pop());
  if (selected >= n + missed.length) selected = -1;
  changed();
  showWhat();
  paintField();
}

// What depends on what a person says; of the overview, one field, or all.
function changed(f = null) {
  try {
    localStorage.setItem(data.key, JSON.stringify([named, missed]));
  } catch { /* a browser that keeps nothing */ }
  showCount();
  showGallery();
  if (f === null) showOverview();
  else showInOverview(f);
}

// ---- slides and fields ----

function setSlide(s) {
  slide = s;
  way = groups().flatMap(([, some]) => some).filter((i) => i < n);
  at("slide").value = String(s);
  showCount();
  showGallery();
  showOverview();
}

const fieldsOf = (s) => [...data.fields.id.keys()].filter((f) => data.fields.slide[f] === s);

function showOverview() {
  at("overview").replaceChildren(...fieldsOf(slide).map((f) => make("li", { "data-of": f })));
  fieldsOf(slide).forEach(showInOverview);
}

function showInOverview(f) {
  const small = draw("svg", { viewBox: frame(f).join(" "), "aria-hidden": "true" });
  small.append(...picture(f), ...shapes(f).map((rect) => (rect.removeAttribute("data-cell"), rect)));
  const count = ofField(f).filter((i) => typeOf(i) !== REJECTED).length;
  const button = make("button", { type: "button", "data-field": f }, small, data.fields.id[f], make("br"),
    make("small", {}, [`${count} ${count === 1 ? "leukocyte" : "leukocytes"}`, data.fields.notes[f]].filter(Boolean).join("; ")));
  button.classList.toggle("selected", f === field);
  button.addEventListener("click", () => {
    showField(f);
    at("review").scrollIntoView();
  });
  const item = document.querySelector(`#overview li[data-of="${f}"]`);
  if (item) item.replaceChildren(button);
}

function nextField() {
  const own = fieldsOf(slide);
  if (own.length) showField(own[(own.indexOf(field) + 1) % own.length]);
}

function openSlide(s) {
  selected = -1;
  setSlide(s);
  showWhat();
  if (way.length) select(way[0], true, false);
  else nextField();
}

// ---- tables ----

const word = (type) => (type >= 0 ? typeName(type) : ["", "unsure", "unlike", "cut"][-type]);

function cellTable() {
  const rows = [["cell", "slide", "field", "kind", "x", "y", "nucleus_px", "left", "top", "right", "bottom", "call", "label", "by"]];
  for (const i of everyone()) {
    const f = fieldOf(i), type = typeOf(i), scale = data.fields.scale[f], [dx, dy] = data.fields.offset[f];
    if (type === REJECTED) continue;
    const [left, top, right, bottom] = boxOf(i).map((v, k) => Math.round(10 * (v * scale + (k % 2 ? dy : dx))) / 10);
    const by = isSaid(i) ? "person" : "model";
    const place = i < n ? cells.at[i] : [(left + right) / 2, (top + bottom) / 2, null];
    rows.push([i < n ? cells.id[i] : `${data.fields.id[f]}#missed`, data.slides[slideOf(i)].name, data.fields.image[f], "leukocyte", ...place,
      Math.max(0, left), Math.max(0, top), Math.min(right, data.fields.whole[f][1]), Math.min(bottom, data.fields.whole[f][0]),
      i < n ? word(cells.call[i]) : "", by === "person" ? word(type) : "", by]);
  }
  return csvTable(rows);
}

function countTable() {
  const rows = [["slide", "type", "count", "share", "low", "high", "counted", "unsure", "unlike", "cut", "rejected", "found", "missed"]];
  data.slides.forEach((info, s) => {
    const own = countOf(s);
    data.types.forEach((type, t) => {
      const known = own.total > 0, [low, high] = limits(own.counts[t], own.total);
      const numbers = known ? [own.counts[t] / own.total, low, high].map((x) => Number(x.toFixed(5))) : ["", "", ""];
      rows.push([info.name, type.name, own.counts[t], ...numbers, own.total, own.aside[UNSURE], own.aside[UNLIKE], own.aside[CUT], own.aside[REJECTED], own.found, own.missed]);
    });
  });
  return csvTable(rows);
}

// ---- wiring ----

at("choose").hidden = data.slides.length < 2;
at("slide").addEventListener("change", () => openSlide(Number(at("slide").value)));
at("download").addEventListener("click", () => download(cellTable(), "cells.csv"));
at("download-counts").addEventListener("click", () => download(countTable(), "counts.csv"));
at("in").addEventListener("click", () => zoom(0.7));
at("out").addEventListener("click", () => zoom(1.4));
at("fit").addEventListener("click", () => field >= 0 && showField(field));
at("mark").addEventListener("click", () => setMarking(!marking));
view.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(event.deltaY < 0 ? 0.85 : 1.18, pointOf(event));
}, { passive: false });

let drag = null;
view.addEventListener("pointerdown", (event) => {
  drag = { from: pointOf(event), moved: false, target: event.target };
  view.setPointerCapture(event.pointerId);
});
view.addEventListener("pointermove", (event) => {
  if (!drag || marking) return;
  const [x, y] = pointOf(event), [dx, dy] = [x - drag.from[0], y - drag.from[1]];
  if (!drag.moved && Math.hypot(dx, dy) < 0.01 * box[2]) return;
  drag.moved = true;
  box = [box[0] - dx, box[1] - dy, box[2], box[3]];
  paintField();
});
view.addEventListener("pointerup", (event) => {
  const was = drag;
  drag = null;
  if (!was || was.moved) return;
  if (marking) mark(pointOf(event));
  else if (was.target.dataset && "cell" in was.target.dataset) select(Number(was.target.dataset.cell), false);
});

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.target.tagName === "SELECT" && (key.startsWith("Arrow") || key === "Enter")) return;
  const isButton = event.target.tagName === "BUTTON" || event.target.tagName === "A";
  if (marking && key in ARROWS) {
    const step = data.fields.cell[field] / 6;
    cross = [cross[0] + ARROWS[key][0] * step, cross[1] + ARROWS[key][1] * step];
    paintField();
  } else if (marking && key === "Enter") mark(cross);
  else if (key === "Escape") setMarking(false);
  else if (key === "ArrowRight" || key === "ArrowLeft") {
    const all = order(), place = all.indexOf(selected);
    const next = place < 0 ? all[0] : all[place + (key === "ArrowRight" ? 1 : -1)];
    if (next !== undefined) select(next);
  } else if (/^[1-9]$/.test(key) && Number(key) <= data.types.length) say(Number(key) - 1);
  else if (key === "Enter" && !isButton && selected >= 0 && typeOf(selected) >= 0) say(typeOf(selected));
  else if (key === "x") say(REJECTED);
  else if (key === "u") say(UNSURE);
  else if (key === "z") undo();
  else if (key === "m") setMarking(!marking);
  else if (key === "f") nextField();
  else if (key === "s" && data.slides.length > 1) openSlide((slide + 1) % data.slides.length);
  else if (key === "+" || key === "=") zoom(0.7);
  else if (key === "-") zoom(1.4);
  else if (key === "0" && field >= 0) showField(field);
  else return;
  event.preventDefault();
});

try {
  [named, missed] = JSON.parse(localStorage.getItem(data.key)) || [{}, []];
} catch { /* nothing kept */ }
openSlide(0);
document.documentElement.dataset.ready = "yes";
