const LEFT_OUT = -2, NONE = -1, SURE = 0.9, ASKED = 10, SHOWN = 10, WHOLE = 400, IN_SELECTION = 120, REACH = 18, BRUSH = 22;
const n = data.id.length, d = data.scale.length;
const places = Float64Array.from(atob(data.places), (c, k) => (((c.charCodeAt(0) + 128) & 255) - 128) * data.scale[k % d]);
const strays = new Set(data.stray);
const side = data.sheet.side;

// What a person says. A change makes a new state, which shares with the last what is the same.
// names: type of a group, singles: type of a cell named by itself, LEFT_OUT where it is no cell.
const fresh = () => ({ types: data.types, group: data.group, order: data.stability.map((_, g) => g), names: {}, singles: {} });
let state = fresh(), history = [];

// What is being named, and what is open: none of it is kept.
let target = null, merging = null, whole = new Set(), selection = [], asked = [], passed = new Set(), ring = -1;
let rule = "sure", calls = null;

const typeName = (type) => (type === LEFT_OUT ? "left out" : type < 0 ? "no name yet" : state.types[type]);
const colourOf = (type) => data.palette[type % data.palette.length];
const membersOf = (g) => members.get(g) || []; // the most typical first
let members = new Map(), grouped = null;

function symbol(type) {
  const key = draw("svg", { viewBox: "-6 -6 12 12", class: "key", "aria-hidden": "true" });
  if (type === LEFT_OUT) key.append(draw("path", { d: "M-4-4l8 8m0-8l-8 8", fill: "none", stroke: "currentColor", "stroke-width": 2 }));
  else if (type >= 0) key.append(draw("path", { d: SHAPES[type % SHAPES.length], fill: colourOf(type) }));
  else key.append(draw("circle", { r: 4.5, fill: "none", stroke: "currentColor" }));
  return key;
}

// ---- what the names so far call ----

function compute() {
  if (grouped !== state.group) {
    grouped = state.group;
    members = new Map();
    grouped.forEach((g, i) => members.has(g) ? members.get(g).push(i) : members.set(g, [i]));
    members.forEach((rows) => rows.sort((i, j) => data.distance[i] - data.distance[j] || i - j));
  }
  const given = new Int16Array(n), single = new Uint8Array(n), used = new Set();
  for (let i = 0; i < n; i++) {
    single[i] = i in state.singles;
    const type = single[i] ? state.singles[i] : state.names[state.group[i]] ?? NONE;
    given[i] = type >= 0 ? type : NONE;
    if (type >= 0) used.add(type);
    single[i] ||= type === LEFT_OUT;
  }
  calls = null;
  if (used.size < 2) return;
  const types = [...used].sort((a, b) => a - b), code = new Map(types.map((type, k) => [type, k]));
  const codes = given.map((type) => (type < 0 ? NONE : code.get(type)));
  const p = spread(places, n, d, codes, single, types.length);
  const call = new Int16Array(n), sure = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < types.length; k++) if (p[i * types.length + k] > sure[i]) [call[i], sure[i]] = [types[k], p[i * types.length + k]];
  }
  calls = { p, types, call, sure, single };
}

function ask() {
  if (!calls) return [];
  const done = calls.single.map((said, i) => said || Number(passed.has(i)));
  return askNext(calls.p, places, n, d, done, calls.types.length, ASKED);
}

// Label of a cell, and how it came about, as labels.csv has it.
function labelOf(i) {
  if (i in state.singles) return [state.singles[i], "single"];
  const own = state.names[state.group[i]] ?? NONE;
  if (own === LEFT_OUT) return [LEFT_OUT, "group"];
  if (rule === "group" || !calls) return [own, own < 0 ? "" : "group"];
  if (calls.sure[i] < SURE) return [NONE, ""];
  return [calls.call[i], calls.call[i] === own ? "group" : "suggested"];
}

// ---- doing, undoing, keeping ----

function change(parts, text) {
  history.push(state);
  if (history.length > 500) history.shift();
  state = { ...state, ...parts };
  changed(text);
}

function undo() {
  if (!history.length) return;
  state = history.pop();
  if (target && target.kind === "group" && !state.order.includes(target.g)) target = null;
  changed("Undone.");
}

const progress = () => ({ wbcprof: "labels", key: data.key, ...state, group: state.group === data.group ? null : state.group });

function changed(text) {
  compute();
  if (!asked.length || asked.every((i) => i in state.singles || passed.has(i)) || !calls) asked = ask();
  try {
    localStorage.setItem(data.key, JSON.stringify(progress()));
  } catch { /* a browser that keeps nothing */ }
  show();
  if (text) at("announce").textContent = text;
}

// Takes what `progress` gave; false where it is of another page or no such thing.
function restore(kept) {
  const isType = (type) => type === LEFT_OUT || (Number.isInteger(type) && type >= 0 && type < kept.types.length);
  const isText = (value) => typeof value === "string" && value.trim() !== "";
  try {
    if (kept.wbcprof !== "labels" || kept.key !== data.key || !Array.isArray(kept.types) || !kept.types.every(isText)) return false;
    const group = kept.group || data.group;
    if (group.length !== n || !group.every((g) => kept.order.includes(g)) || new Set(kept.order).size !== kept.order.length) return false;
    if (!Object.entries(kept.names).every(([g, type]) => kept.order.includes(Number(g)) && isType(type))) return false;
    if (!Object.entries(kept.singles).every(([i, type]) => Number(i) >= 0 && Number(i) < n && isType(type))) return false;
    state = { types: kept.types, group, order: kept.order, names: kept.names, singles: kept.singles };
    return true;
  } catch {
    return false;
  }
}

// ---- naming ----

const without = (object, key) => Object.fromEntries(Object.entries(object).filter(([own]) => own !== String(key)));

function say(type) {
  if (!target) return;
  if (target.kind === "group") {
    const { g } = target;
    const names = state.names[g] === type ? without(state.names, g) : { ...state.names, [g]: type };
    const next = names[g] === type ? nextGroup(g, names) : g;
    target = { kind: "group", g: next };
    asked = [];
    change({ names }, `Group ${place(g)}: ${typeName(names[g] ?? NONE)}.`);
    reveal();
  } else if (target.kind === "set") {
    const cells = target.cells;
    change({ singles: { ...state.singles, ...Object.fromEntries(cells.map((i) => [i, type])) } }, `${cells.length} cells: ${typeName(type)}.`);
  } else {
    const { i } = target, following = neighbour(1);
    const singles = state.singles[i] === type && target.where !== "ask" ? without(state.singles, i) : { ...state.singles, [i]: type };
    if (following !== null && i in singles) target = { ...target, i: following };
    change({ singles }, `${data.id[i]}: ${typeName(singles[i] ?? NONE)}.`);
    if (target.where === "ask" && (following === null || !asked.includes(target.i))) aim({ ...target, i: asked.find(open) ?? target.i });
    reveal();
  }
}

const open = (i) => !(i in state.singles) && !passed.has(i);
const place = (g) => state.order.indexOf(g) + 1;

function nextGroup(g, names) {
  const from = state.order.indexOf(g), around = [...state.order.slice(from + 1), ...state.order.slice(0, from)];
  return around.find((other) => !(other in names)) ?? state.order[Math.min(from + 1, state.order.length - 1)];
}

function confirm() {
  if (!target || target.kind !== "cell") return;
  const [type] = labelOf(target.i), own = calls ? calls.call[target.i] : type;
  if (own >= 0) say(own);
}

function pass() {
  if (!target || target.kind !== "cell" || target.where !== "ask") return;
  const following = neighbour(1);
  passed.add(target.i);
  if (!asked.some(open)) asked = ask();
  const next = following ?? asked.find(open);
  target = next === undefined ? null : { kind: "cell", i: next, where: "ask" };
  show();
  reveal();
}

function addType(text) {
  const name = text.trim();
  if (!name) return;
  const known = state.types.findIndex((type) => type.toLowerCase() === name.toLowerCase());
  if (known < 0) change({ types: [...state.types, name] }, `New type ${name}.`);
  if (target) say(known < 0 ? state.types.length - 1 : known);
}

function split(g) {
  const rows = membersOf(g);
  if (rows.length < 2) return;
  const half = halve(places, d, rows), added = Math.max(...state.order) + 1, group = [...state.group];
  if (!half.includes(1)) return;
  rows.forEach((i, r) => { if (half[r]) group[i] = added; });
  const order = state.order.toSpliced(state.order.indexOf(g) + 1, 0, added);
  change({ group, order, names: g in state.names ? { ...state.names, [added]: state.names[g] } : state.names }, `Group ${place(g)} is split.`);
  reveal();
}

// The first call takes a group up, the second puts it into another.
function merge(g) {
  if (merging === null || merging === g) {
    merging = merging === g ? null : g;
    show();
    return;
  }
  const from = merging;
  merging = null;
  target = { kind: "group", g };
  change({ group: state.group.map((own) => (own === from ? g : own)), order: state.order.filter((own) => own !== from), names: without(state.names, from) }, "The groups are one.");
  reveal();
}

// ---- the page ----

function thumbButton(i, where, size) {
  const button = make("button", { type: "button", "data-cell": i, "data-where": where, tabindex: where === "ask" || where === "set" ? 0 : -1 }, fromSheet(i, size));
  const [label, how] = labelOf(i), own = state.names[state.group[i]] ?? NONE;
  const said = i in state.singles ? `named ${typeName(label)}` : how ? `${typeName(label)} by ${how === "group" ? "its group" : "suggestion"}` : "no sure name";
  const text = `${data.id[i]}: ${said}${strays.has(i) ? ", far from all groups" : ""}`;
  button.setAttribute("aria-label", text);
  button.title = text;
  if (i in state.singles || (label >= 0 && label !== own && where !== "ask")) button.append(make("span", { class: "mark" }, symbol(label)));
  button.classList.toggle("out", label === LEFT_OUT);
  return button;
}

function cells(rows, where, size, name) {
  return make("div", { class: "cells", role: "group", "aria-label": name }, ...rows.map((i) => thumbButton(i, where, size)));
}

function doubt(g, i) {
  const own = state.names[g] ?? NONE;
  if (!calls || own < 0) return 1 - data.sureness[i];
  const k = calls.types.indexOf(own);
  return 1 - (k < 0 ? 0 : calls.p[i * calls.types.length + k]);
}

function card(g) {
  const rows = membersOf(g), own = state.names[g] ?? NONE, size = rows.length > 1 ? Math.min(side, 60) : side;
  const doubts = new Map(rows.map((i) => [i, doubt(g, i)])), doubtful = [...rows].sort((i, j) => doubts.get(j) - doubts.get(i));
  const count = `${rows.length.toLocaleString("en")} ${rows.length === 1 ? "cell" : "cells"}`;
  const found = g < data.stability.length && state.group === data.group ? `, found again ${Math.round(100 * data.stability[g])} %` : "";
  const title = make("button", { type: "button", "data-name": g }, `Group ${place(g)}: ${typeName(own)}`);
  const open = whole.has(g), few = Math.min(SHOWN, rows.length);
  const seen = open ? doubtful.slice(0, WHOLE) : [...rows.slice(0, few), ...doubtful.slice(0, few)];
  const look = JSON.stringify([place(g), own, count, found, open, merging, merging === null ? 0 : place(merging), seen, seen.map(labelOf)]);
  const before = cards.get(g);
  if (before && before.look === look) return before.element;
  const tool = (text, name, run) => {
    const button = make("button", { type: "button", "data-tool": `${name}${g}` }, text);
    button.addEventListener("click", () => run(g));
    return button;
  };
  title.addEventListener("click", () => aim({ kind: "group", g }));
  const parts = open
    ? [make("p", { class: "row-name" }, rows.length > WHOLE ? `The ${WHOLE} most doubtful of all, the most doubtful first` : "All, the most doubtful first"), cells(seen, `g${g}a`, size, "All cells")]
    : [make("p", { class: "row-name" }, "Typical"), cells(rows.slice(0, few), `g${g}t`, size, "Typical cells"), ...(rows.length > few ? [make("p", { class: "row-name" }, "Doubtful"), cells(doubtful.slice(0, few), `g${g}d`, size, "Doubtful cells")] : [])];
  const element = make("article", { class: `card${open ? " whole" : ""}`, "data-group": g, tabindex: 0, "aria-label": `Group ${place(g)}, ${count}, ${typeName(own)}` },
    make("h3", {}, symbol(own), title, make("small", {}, count + found)), ...parts,
    make("div", { class: "tools" }, tool("Split", "split", split), tool(merging === null ? "Merge with ..." : merging === g ? "Do not merge" : `Put group ${place(merging)} in here`, "merge", merge),
      ...(rows.length > 2 * few || open ? [tool(open ? "Show few" : "Show all", "whole", (one) => { if (whole.has(one)) whole.delete(one); else whole.add(one); show(); })] : [])));
  cards.set(g, { look, element });
  return element;
}

// A group is drawn anew where it looks otherwise than before.
const cards = new Map();

function showCards() {
  const now = state.order.map(card), box = at("cards");
  if (now.length !== box.children.length) box.replaceChildren(...now);
  else now.forEach((element, k) => { if (box.children[k] !== element) box.children[k].replaceWith(element); });
}

function show() {
  const focus = document.activeElement, had = focus && (focus.closest("#cards,#asked,#selection,#strays") ? { ...focus.dataset } : null);
  showCards();
  const far = [...strays].filter((i) => !(i in state.singles));
  at("strays").replaceChildren(...(far.length ? [make("h3", {}, "Stray cells"), make("p", { class: "hint" }, `${far.length} ${far.length === 1 ? "cell lies" : "cells lie"} far from all groups: rare types, smudged or cut cells. Name them by themselves, or leave them out with X.`), cells(far.slice(0, IN_SELECTION), "strays", Math.min(side, 60), "Stray cells")] : []));
  at("merging").hidden = merging === null;
  if (merging !== null) at("merging").textContent = `Group ${place(merging)} is to go into another group: choose that one and press M, or its button. Escape leaves it where it is.`;
  showAsked();
  showSelection();
  showResult();
  showBar();
  paint();
  if (had) focusOn(had);
}

function showAsked() {
  const answers = Object.keys(state.singles).length;
  at("ask-note").textContent = calls
    ? asked.length ? `These cells lie between types: their names teach most. Enter says that the call is right, U passes a cell over; after ten come others. Twenty answers help much, sixty more; ${answers.toLocaleString("en")} ${answers === 1 ? "cell has" : "cells have"} a name by now.` : "Every cell has a name of its own, or was passed over."
    : "Name two types first; then cells appear here whose names would teach most.";
  at("asked").replaceChildren(...asked.map((i) => {
    const button = thumbButton(i, "ask", side);
    const text = i in state.singles ? typeName(state.singles[i]) : passed.has(i) ? "passed over" : `${typeName(calls.call[i])}? ${Math.round(100 * calls.sure[i])}\u00a0%`;
    button.append(make("span", {}, text.replaceAll("_", "_\u200b")));
    button.setAttribute("aria-label", `${data.id[i]}: ${text}`);
    return button;
  }));
  at("more").disabled = !calls;
}

function showSelection() {
  at("selection-note").textContent = selection.length
    ? `${selection.length.toLocaleString("en")} ${selection.length === 1 ? "cell is" : "cells are"} selected${selection.length > IN_SELECTION ? `, ${IN_SELECTION} of them here` : ""}; a key or button names all of them. Delete takes the cell at hand out.`
    : "Nothing is selected. Keyboard: Tab to the map, arrow keys, space.";
  at("selection").replaceChildren(...selection.slice(0, IN_SELECTION).map((i) => thumbButton(i, "set", Math.min(side, 60))));
  at("clear").disabled = !selection.length;
}

function tally() {
  const rows = state.types.map(() => ({ group: 0, single: 0, suggested: 0 }));
  let none = 0, out = 0;
  for (let i = 0; i < n; i++) {
    const [type, how] = labelOf(i);
    if (type >= 0) rows[type][how]++;
    else if (type === LEFT_OUT) out++;
    else none++;
  }
  return { rows, none, out };
}

function showResult() {
  const { rows, none, out } = tally(), sum = (row) => row.group + row.single + row.suggested;
  const body = rows.map((row, type) => [type, row]).filter(([, row]) => sum(row)).map(([type, row]) =>
    make("tr", {}, make("th", { scope: "row" }, symbol(type), typeName(type)), ...[row.group, row.single, row.suggested, sum(row)].map((x) => make("td", {}, x.toLocaleString("en")))));
  at("counts").tBodies[0].replaceChildren(...body);
  const named = n - none - out;
  at("done").textContent = `${named.toLocaleString("en")} of ${n.toLocaleString("en")} cells have a label, ${out.toLocaleString("en")} are left out, ${none.toLocaleString("en")} stay without: ${calls && rule === "sure" ? "they are too unsure." : "their groups have no name."}`;
  const nameless = state.order.filter((g) => !(g in state.names)).length, of = state.order.length;
  at("step").textContent = nameless ? `${of - nameless} of ${of} groups have a name.` : `All ${of} groups have a name. Next: answer doubts, below.`;
  at("nameless").hidden = !nameless || !calls;
  at("nameless").textContent = `${nameless} ${nameless === 1 ? "group has" : "groups have"} no name yet. Cells in ${nameless === 1 ? "it" : "them"} ${rule === "sure" ? "are called by the names given so far, wrongly where their type is not among these." : "stay without a label."}`;
  at("rule").value = rule;
}

function showBar() {
  const parts = [];
  let current = NONE;
  if (target && target.kind === "group") {
    current = state.names[target.g] ?? NONE;
    const typical = membersOf(target.g)[0];
    parts.push(fromSheet(typical, Math.min(side, 60)), make("span", {}, make("b", {}, `Group ${place(target.g)}`), make("br"), `${membersOf(target.g).length.toLocaleString("en")} cells: ${typeName(current)}`));
  } else if (target && target.kind === "cell") {
    const [label, how] = labelOf(target.i);
    current = label;
    parts.push(fromSheet(target.i, Math.min(side, 96)), make("span", {}, make("b", {}, data.id[target.i]), make("br"), typeName(label) + (how ? `, ${how === "single" ? "by itself" : how === "group" ? "by its group" : "suggested"}` : calls ? `; perhaps ${typeName(calls.call[target.i])}, ${Math.round(100 * calls.sure[target.i])} %` : "")));
  } else if (target) parts.push(make("b", {}, `${target.cells.length.toLocaleString("en")} selected cells`));
  else parts.push(make("span", {}, "Choose a group or a cell to name it."));
  at("target").replaceChildren(...parts);
  const choices = [...state.types.map((name, type) => [type, type < 9 ? String(type + 1) : "", name]), [LEFT_OUT, "X", "leave out"]];
  at("buttons").replaceChildren(...choices.map(([type, key, text]) => {
    const button = make("button", { type: "button", "data-type": type, "aria-pressed": String(current === type && Boolean(target)) }, symbol(type), make("span", {}, text), ...(key ? [make("kbd", {}, key)] : []));
    button.disabled = !target;
    button.addEventListener("click", () => say(type));
    return button;
  }));
  at("undo").disabled = !history.length;
  document.querySelectorAll(".target").forEach((element) => element.classList.remove("target"));
  const element = elementOf(target);
  if (element) element.classList.add("target");
}

function elementOf(one) {
  if (!one || one.kind === "set") return null;
  if (one.kind === "group") return document.querySelector(`[data-group="${one.g}"]`);
  return document.querySelector(`[data-cell="${one.i}"][data-where="${one.where}"]`);
}

function focusOn(had) {
  const element = elementOf(target) || document.querySelector(Object.entries(had).map(([key, value]) => `[data-${key}="${CSS.escape(value)}"]`).join("") || "#cards");
  if (had.tool) {
    const same = document.querySelector(`[data-tool="${had.tool}"]`);
    if (same) return same.focus({ preventScroll: true });
  }
  if (element) element.focus({ preventScroll: true });
}

function aim(one) {
  target = one;
  showBar();
  paint();
}

// Bring what is being named into view, and the keyboard to it.
function reveal() {
  const element = elementOf(target);
  if (!element) return;
  element.focus({ preventScroll: true });
  element.scrollIntoView({ block: "nearest" });
}

// The cell before or after the one at hand, in its row; or null.
function neighbour(step) {
  const element = elementOf(target);
  if (!element) return null;
  const all = [...element.parentElement.children], next = all[all.indexOf(element) + step];
  return next ? Number(next.dataset.cell) : null;
}

function go(step) {
  if (!target || target.kind === "set") return aim({ kind: "group", g: state.order[0] });
  if (target.kind === "group") {
    const first = elementOf(target).querySelector("[data-cell]");
    if (step > 0) aim({ kind: "cell", i: Number(first.dataset.cell), where: first.dataset.where });
  } else {
    const element = elementOf(target), group = element && element.closest("[data-group]");
    let next = neighbour(step);
    if (next !== null) aim({ ...target, i: next });
    else if (group) {
      const all = [...group.querySelectorAll("[data-cell]")], beside = all[all.indexOf(element) + step];
      aim(beside ? { kind: "cell", i: Number(beside.dataset.cell), where: beside.dataset.where } : step < 0 ? { kind: "group", g: Number(group.dataset.group) } : target);
    }
  }
  reveal();
}

function goGroup(step) {
  const from = target && target.kind === "group" ? target.g : target && elementOf(target)?.closest("[data-group]") ? Number(elementOf(target).closest("[data-group]").dataset.group) : null;
  const shown = state.order, now = from === null ? -step : shown.indexOf(from);
  aim({ kind: "group", g: shown[Math.min(Math.max(from === null ? 0 : now + step, 0), shown.length - 1)] });
  reveal();
}

// ---- the map ----

const plot = at("plot"), pen = plot.getContext("2d");
const outlines = SHAPES.map((shape) => new Path2D(shape));
const mode = () => document.querySelector("[name=mode]:checked").value;
let drag = null;

function paint() {
  const style = getComputedStyle(document.documentElement), ink = style.getPropertyValue("--ink").trim(), soft = style.getPropertyValue("--soft").trim();
  const size = Math.min(1, Math.max(0.5, Math.sqrt(1500 / n)));
  pen.setTransform(2, 0, 0, 2, 0, 0);
  pen.clearRect(0, 0, 800, 600);
  const used = new Set(), chosen = new Set(selection);
  const inTarget = target && target.kind === "group" ? new Set(membersOf(target.g)) : new Set();
  for (let i = 0; i < n; i++) {
    const [label] = labelOf(i), called = label < 0 && label !== LEFT_OUT && calls ? calls.call[i] : label;
    used.add(label < 0 ? label : called);
    pen.setTransform(2 * size, 0, 0, 2 * size, 2 * data.x[i], 2 * data.y[i]);
    const outline = outlines[called >= 0 ? called % outlines.length : 0];
    pen.lineWidth = label >= 0 ? 0.7 : 1.4;
    pen.strokeStyle = label >= 0 ? ink : called >= 0 ? colourOf(called) : soft;
    if (label >= 0) {
      pen.fillStyle = colourOf(called);
      pen.fill(outline);
    }
    if (label !== LEFT_OUT) pen.stroke(outline);
    if (chosen.has(i) || inTarget.has(i)) {
      pen.lineWidth = chosen.has(i) ? 1.8 : 1.2;
      pen.strokeStyle = ink;
      pen.beginPath();
      pen.arc(0, 0, chosen.has(i) ? 8 : 6.5, 0, 7);
      pen.stroke();
    }
  }
  pen.setTransform(2, 0, 0, 2, 0, 0);
  pen.strokeStyle = ink;
  const at2 = target && target.kind === "cell" ? target.i : ring;
  if (at2 >= 0) {
    pen.lineWidth = 3;
    pen.beginPath();
    pen.arc(data.x[at2], data.y[at2], 11, 0, 7);
    pen.stroke();
  }
  if (drag && drag.path.length > 1) {
    pen.lineWidth = drag.brush ? 2 * BRUSH : 2;
    pen.globalAlpha = drag.brush ? 0.2 : 1;
    pen.lineCap = pen.lineJoin = "round";
    pen.setLineDash(drag.brush ? [] : [6, 4]);
    pen.beginPath();
    drag.path.forEach(([x, y]) => pen.lineTo(x, y));
    pen.stroke();
    pen.setLineDash([]);
    pen.globalAlpha = 1;
  }
  at("legend").replaceChildren(...[...used].filter((type) => type >= 0).sort((a, b) => a - b).map((type) => make("li", {}, symbol(type), typeName(type))));
}

function pointed(event) {
  const box = plot.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * 800, ((event.clientY - box.top) / box.height) * 600];
}

function nearest(x, y, keep = () => true) {
  let best = -1, least = Infinity;
  for (let i = 0; i < n; i++) {
    const distance = (data.x[i] - x) ** 2 + (data.y[i] - y) ** 2;
    if (distance < least && keep(i)) [best, least] = [i, distance];
  }
  return [best, Math.sqrt(least)];
}

function isNear([x, y], path) {
  return path.some(([px, py]) => Math.hypot(px - x, py - y) <= BRUSH);
}

function choose(rows) {
  selection = rows;
  target = rows.length ? { kind: "set", cells: rows } : null;
  showSelection();
  showBar();
  paint();
}

function toggle(i) {
  choose(selection.includes(i) ? selection.filter((own) => own !== i) : [...selection, i]);
}

plot.addEventListener("pointerdown", (event) => {
  if (mode() === "point") return;
  plot.setPointerCapture(event.pointerId);
  drag = { path: [pointed(event)], brush: mode() === "brush", add: event.shiftKey };
});
plot.addEventListener("pointermove", (event) => {
  if (!drag) return;
  drag.path.push(pointed(event));
  paint();
});
plot.addEventListener("pointerup", () => {
  if (!drag) return;
  const { path, brush, add } = drag, [x, y] = path[0];
  const length = path.reduce((most, [px, py]) => Math.max(most, Math.hypot(px - x, py - y)), 0);
  drag = null;
  if (length < 4 && !brush) return tap(x, y);
  const inside = [...data.id.keys()].filter((i) => (brush ? isNear : isInside)([data.x[i], data.y[i]], path));
  choose(add ? [...new Set([...selection, ...inside])] : inside);
});
plot.addEventListener("pointercancel", () => {
  drag = null;
  paint();
});
plot.addEventListener("click", (event) => {
  if (mode() === "point") tap(...pointed(event));
});

function tap(x, y) {
  const [i, distance] = nearest(x, y);
  if (distance <= REACH) aim({ kind: "cell", i, where: "map" });
  else paint();
}

// ---- wiring ----

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function onMap(key) {
  if (key === " ") {
    if (ring >= 0) toggle(ring);
  } else if (key in ARROWS) {
    if (ring < 0) [ring] = nearest(400, 300);
    else {
      const [dx, dy] = ARROWS[key], x = data.x[ring], y = data.y[ring];
      const [next] = nearest(x, y, (i) => {
        const along = (data.x[i] - x) * dx + (data.y[i] - y) * dy;
        return along > 0 && along >= Math.abs((data.x[i] - x) * dy + (data.y[i] - y) * dx);
      });
      if (next >= 0) ring = next;
    }
    at("announce").textContent = `${data.id[ring]}: ${typeName(labelOf(ring)[0])}`;
    if (!selection.length) target = { kind: "cell", i: ring, where: "map" };
    showBar();
    paint();
  } else return false;
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key, tag = event.target.tagName;
  const typing = (tag === "INPUT" && event.target.type !== "radio") || tag === "SELECT";
  if (typing && key !== "Escape") return;
  const isButton = (tag === "BUTTON" && !("cell" in event.target.dataset)) || tag === "A", isRadio = tag === "INPUT";
  const group = target && target.kind === "group" ? target.g : null;
  if (event.target === plot && onMap(key)) { /* done */ }
  else if (isRadio && (key in ARROWS || key === " ")) return;
  else if (key === "ArrowRight" || key === "ArrowLeft") go(key === "ArrowRight" ? 1 : -1);
  else if (key === "ArrowDown" || key === "ArrowUp") goGroup(key === "ArrowDown" ? 1 : -1);
  else if (/^[1-9]$/.test(key) && Number(key) <= state.types.length) say(Number(key) - 1);
  else if (key === "x") say(LEFT_OUT);
  else if (key === "z") undo();
  else if (key === "u") pass();
  else if (key === "d" && asked.length) {
    aim({ kind: "cell", i: asked.find(open) ?? asked[0], where: "ask" });
    reveal();
  } else if (key === "g") {
    aim({ kind: "group", g: state.order.find((g) => !(g in state.names)) ?? state.order[0] });
    reveal();
  }
  else if (key === "s" && group !== null) split(group);
  else if (key === "m" && group !== null) merge(group);
  else if (key === "Enter" && !isButton) confirm();
  else if (key === "Delete" && target && target.kind === "cell" && selection.includes(target.i)) toggle(target.i);
  else if (key === "Escape") {
    merging = null;
    if (typing) event.target.blur();
    const element = elementOf(target), box = element && target.kind === "cell" ? element.closest("[data-group]") : null;
    if (box) aim({ kind: "group", g: Number(box.dataset.group) });
    show();
    reveal();
  } else return;
  event.preventDefault();
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-cell]");
  if (button) aim({ kind: "cell", i: Number(button.dataset.cell), where: button.dataset.where });
});
at("cards").addEventListener("focusin", (event) => {
  if (event.target.dataset && "group" in event.target.dataset && elementOf(target) !== event.target) aim({ kind: "group", g: Number(event.target.dataset.group) });
});
for (const name of ["asked", "selection"]) {
  at(name).addEventListener("focusin", (event) => {
    const button = event.target.closest("[data-cell]");
    if (button && elementOf(target) !== button) aim({ kind: "cell", i: Number(button.dataset.cell), where: button.dataset.where });
  });
}
at("undo").addEventListener("click", undo);
at("more").addEventListener("click", () => {
  asked.forEach((i) => { if (open(i)) passed.add(i); });
  asked = ask();
  show();
});
at("clear").addEventListener("click", () => choose([]));
at("new").addEventListener("submit", (event) => {
  event.preventDefault();
  addType(at("name").value);
  at("name").value = "";
});
document.querySelectorAll("[name=mode]").forEach((radio) => radio.addEventListener("change", () => plot.classList.toggle("point", mode() === "point")));
at("rule").addEventListener("change", () => {
  rule = at("rule").value;
  show();
});
matchMedia("(prefers-color-scheme:dark)").addEventListener("change", paint);

function labelTable() {
  return csvTable([["image", "label", "how"], ...data.id.map((id, i) => {
    const [type, how] = labelOf(i);
    return [data.folder + id, type >= 0 ? typeName(type) : "", type === LEFT_OUT ? "left out" : how];
  })]);
}

at("download").addEventListener("click", () => download(labelTable(), "labels.csv"));
at("save").addEventListener("click", () => download(JSON.stringify(progress()), "labels-progress.json", "application/json"));
at("load").addEventListener("change", async () => {
  const [file] = at("load").files, before = state;
  if (!file) return;
  let kept = null;
  try {
    kept = JSON.parse(await file.text());
  } catch { /* told below */ }
  if (restore(kept)) {
    history.push(before);
    changed("Progress loaded.");
    at("said").textContent = `${file.name} is loaded.`;
  } else at("said").textContent = `${file.name} holds no progress of this page: expected a file that "Save progress as a file" wrote for the same cells and model.`;
  at("load").value = "";
});
at("restart").addEventListener("click", () => {
  target = { kind: "group", g: 0 };
  asked = [];
  change(fresh(), "All names are taken back; Undo brings them again.");
  at("said").textContent = "All names are taken back; Undo brings them again.";
});

try {
  restore(JSON.parse(localStorage.getItem(data.key)));
} catch { /* nothing kept */ }
if (matchMedia("(pointer:coarse)").matches) document.querySelector("[value=point]").click();
target = { kind: "group", g: state.order.find((g) => !(g in state.names)) ?? state.order[0] };
changed("");
document.documentElement.dataset.ready = "yes";
