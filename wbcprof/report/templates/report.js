const REACH = 14, MOST_PICTURES = 60;
const plot = at("plot"), tip = at("tip"), panel = at("panel");
const n = data.x.length;
const scale = Math.min(1, Math.max(0.45, Math.sqrt(1500 / Math.max(n, 1))));
let shown = new Set(data.types.keys());
let current = -1, selected = -1;

function symbol(type) {
  return { d: SHAPES[data.types[type].shape % SHAPES.length], fill: data.types[type].colour };
}

function sprite(element, index, perRow, side) {
  const style = element.style;
  style.width = style.height = `${side}px`;
  style.backgroundSize = `${perRow * side}px auto`;
  style.backgroundPosition = `${-(index % perRow) * side}px ${-Math.floor(index / perRow) * side}px`;
  return element;
}

function thumb(i, side) {
  const { per_sheet: perSheet, per_row: perRow } = data.sheet;
  const name = `thumb s${Math.floor(i / perSheet)}`;
  return sprite(make("span", { class: name, role: "img", "aria-label": describe(i) }), i % perSheet, perRow, side);
}

function tile(signature, side) {
  if (!data.tiles) return make("span", {}, "");
  const element = make("span", { class: "tile", role: "img", "aria-label": `signature ${signature + 1}` });
  return sprite(element, signature, data.tiles.per_row, side);
}

// Text that may go on in the next line behind "_", "/" and "-".
function parted(text) {
  return text.split(/(?<=[_/-])(?=\w)/).flatMap((part, k) => (k ? [make("wbr"), part] : [part]));
}

const typeName = (type) => data.types[type].name;
const isWrong = (i) => data.wrong[i] === 1;

function callText(i) {
  if (data.call[i] < 0) return "not called";
  if (data.strange[i] === "unlike") return `unlike any known type, nearest ${typeName(data.call[i])}`;
  if (data.strange[i] === "unsure") return `unsure: ${typeName(data.call[i])} or ${typeName(data.rival[i])}`;
  return `called ${typeName(data.call[i])} (probability ${data.p[i].toFixed(2)})`;
}

function describe(i) {
  return `${data.id[i]}: ${given(i)}${callText(i)}`;
}

const given = (i) => (data.labelled ? `given ${typeName(data.label[i])}, ` : "");
const typeOf = (i) => ((at("colour").value === "call" || !data.labelled) && data.call[i] >= 0 ? data.call[i] : data.label[i]);
const isShown = (i) => shown.has(typeOf(i)) && (!at("wrong").checked || isWrong(i)) && (!at("doubtful").checked || data.strange[i]);

// ---- the map ----

const points = data.x.map((x, i) => {
  const element = draw("path", { class: "cell", transform: `translate(${x} ${data.y[i]}) scale(${scale})` });
  return element;
});
const rings = draw("g", {});

function paint() {
  let count = 0;
  const ofType = data.types.map(() => 0);
  points.forEach((point, i) => {
    ofType[typeOf(i)] += 1;
    const { d, fill } = symbol(typeOf(i));
    point.setAttribute("d", d);
    point.setAttribute("fill", fill);
    const visible = isShown(i);
    point.style.display = visible ? "" : "none";
    count += visible;
  });
  document.querySelectorAll("#types label").forEach((label, type) => {
    label.lastChild.textContent = ` ${typeName(type)} (${ofType[type].toLocaleString("en")})`;
    label.hidden = !ofType[type];
  });
  at("shown").textContent = `${count.toLocaleString("en")} of ${n.toLocaleString("en")} cells`;
  hover(-1);
  ring();
}

function ring() {
  rings.replaceChildren();
  const circle = (i, r, name) =>
    rings.append(draw("circle", { class: name, cx: data.x[i], cy: data.y[i], r }));
  if (selected >= 0) {
    circle(selected, 10, "ring");
    data.near[selected].forEach((i) => circle(i, 8, "ring near"));
  }
  if (current >= 0 && current !== selected) circle(current, 8, "ring");
}

function nearest(x, y, keep) {
  let best = -1, least = Infinity;
  for (let i = 0; i < n; i++) {
    if (!isShown(i) || (keep && !keep(i))) continue;
    const distance = (data.x[i] - x) ** 2 + (data.y[i] - y) ** 2;
    if (distance < least) [best, least] = [i, distance];
  }
  return [best, Math.sqrt(least)];
}

function hover(i) {
  if (i === current) return;
  current = i;
  ring();
  tip.hidden = i < 0;
  if (i < 0) return;
  const name = make("b", {}, ...parted(data.id[i]));
  tip.replaceChildren(thumb(i, Math.min(2 * data.sheet.side, 192)), make("div", {}, name), ...verdict(i));
  const box = plot.getBoundingClientRect();
  const x = (data.x[i] / 800) * box.width, y = (data.y[i] / 600) * box.height;
  tip.style.left = `${x > box.width / 2 ? x - tip.offsetWidth - 16 : x + 16}px`;
  tip.style.top = `${Math.max(0, Math.min(y - 40, box.height - tip.offsetHeight))}px`;
  at("announce").textContent = describe(i);
}

function pointed(event) {
  const box = plot.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * 800;
  const y = ((event.clientY - box.top) / box.height) * 600;
  const [i, distance] = nearest(x, y);
  return distance <= REACH ? i : -1;
}

// ---- the selected cell ----

function verdict(i) {
  const lines = data.labelled ? [`Given: ${typeName(data.label[i])}`] : [];
  lines.push(callText(i) + (isWrong(i) ? " \u2014 not the given type" : ""));
  return lines.map((line) => make("div", {}, ...parted(line)));
}

function select(i) {
  selected = i;
  const near = make("div", { class: "row" }, ...data.near[i].map((j) => {
    const button = make("button", { type: "button", title: describe(j) }, thumb(j, 64));
    button.addEventListener("click", () => select(j));
    return button;
  }));
  const heading = make("h3", {}, ...parted(data.id[i]));
  panel.replaceChildren(
    heading,
    make("div", { class: "cellhead" }, thumb(i, 128),
      make("div", {}, ...verdict(i))),
    make("h3", {}, "Nearest cells"), near.children.length ? near : make("p", {}, "There is no other cell."),
    ...reasons(i),
  );
  ring();
}

function marked(i, side, place) {
  const element = make("span", { class: "marked" }, thumb(i, side));
  const ring = make("span", { class: "here", "aria-hidden": "true" });
  ring.style.left = `${place[0] / 10}%`;
  ring.style.top = `${place[1] / 10}%`;
  element.append(ring);
  return element;
}

// Where a signature is called up: here, if more than in the average cell, and in cells of the rival.
function seen(i, row, spread) {
  const places = data.places[i][row];
  if (!places) return [];
  const shown = spread > 0 ? [marked(i, 50, places[0])] : [];
  const others = data.rivals[i].map((j, k) => marked(j, 50, places[k + 1]));
  if (!shown.length && !others.length) return [];
  return [make("div", { class: "row" }, ...shown, ...(others.length ? [make("span", { class: "hint" }, "rival:")] : []), ...others)];
}

function reasons(i) {
  if (data.call[i] < 0) return [];
  const rival = typeName(data.rival[i]), call = typeName(data.call[i]);
  const most = Math.max(...data.why[i].map(([, pull]) => Math.abs(pull)));
  const rows = data.why[i].flatMap(([signature, pull, spread, block], row) => {
    const bar = make("div", { class: pull > 0 ? "bar" : "bar against" });
    bar.style.width = `${(100 * Math.abs(pull)) / (most || 1)}%`;
    const where = data.blocks.length > 1 ? ` (${data.blocks[block]})` : "";
    const text = `No. ${signature + 1}${where}: ${Math.abs(spread).toFixed(1)} SD ${spread < 0 ? "below" : "above"} ` +
      `the average cell, ${pull > 0 ? "for" : "against"} ${Math.abs(pull).toFixed(2)}`;
    return [tile(signature, 44), make("div", {}, make("div", {}, text), bar, ...seen(i, row, spread))];
  });
  const places = data.places[i].length ? " Rings: where a signature is called up most, in this cell and in the nearest cells called " + rival + "." : "";
  return [
    make("h3", {}, "Signatures that made the call"),
    make("p", { class: "hint" }, `What spoke for or against ${call} rather than ${rival}, the next best: the ${data.why[i].length} strongest signatures.${places}`),
    make("div", { class: "why" }, ...rows),
  ];
}

// ---- chosen cells ----

let chosen = new Set(), path = null;
const named = new Map(); // type and how it was given, by cell
let isSaved = true;

// To name the chosen cells, and to take home what has been named, as the labelling page has it.
function naming(list) {
  const names = make("datalist", { id: "names" }, ...data.types.map(({ name }) => make("option", { value: name })));
  const field = make("input", { type: "text", list: "names", "aria-label": "type of the chosen cells", placeholder: "type", size: 14 });
  const give = make("button", { type: "submit" }, "Name them");
  const form = make("form", {}, field, names, " ", give);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const label = field.value.trim();
    if (label) list.forEach((i) => named.set(i, [label, list.length > 1 ? "group" : "single"]));
    at("announce").textContent = label ? `${list.length} cells named ${label}` : "no type given";
    isSaved = !named.size;
    at("labels").hidden = !named.size;
    at("labels").textContent = `Save labels.csv (${named.size.toLocaleString("en")})`;
  });
  return form;
}

at("labels").addEventListener("click", () => {
  isSaved = true;
  download(csvTable([
    ["image", "label", "how"], ...[...named].sort((a, b) => a[0] - b[0]).map(([i, given]) => [data.id[i], ...given]),
  ]), "labels.csv");
});
addEventListener("beforeunload", (event) => { if (!isSaved) event.preventDefault(); });

function choose(cells) {
  chosen = new Set(cells);
  points.forEach((point, i) => point.classList.toggle("chosen", chosen.has(i)));
  const list = [...chosen].sort((a, b) => a - b);
  at("announce").textContent = `${list.length} cells chosen`;
  if (!list.length) return panel.replaceChildren(make("p", { class: "hint" }, "No cell selected."));
  const counts = new Map();
  list.forEach((i) => counts.set(typeOf(i), (counts.get(typeOf(i)) || 0) + 1));
  const rows = [...counts].sort((a, b) => b[1] - a[1]).map(([type, count]) => make("li", {}, ...parted(typeName(type)), ` ${count}`));
  const save = make("button", { type: "button" }, "Save the list (CSV)");
  save.addEventListener("click", () => download(csvTable([
    ["image", "given", "called", "probability", "strange"],
    ...list.map((i) => [data.id[i], data.labelled ? typeName(data.label[i]) : "", data.call[i] < 0 ? "" : typeName(data.call[i]), data.p[i], data.strange[i]]),
  ]), "chosen.csv"));
  const none = make("button", { type: "button" }, "None");
  none.addEventListener("click", () => choose([]));
  const pictures = list.slice(0, MOST_PICTURES).map((i) => {
    const button = make("button", { type: "button", title: describe(i) }, thumb(i, 50));
    button.addEventListener("click", () => select(i));
    return button;
  });
  panel.replaceChildren(
    make("h3", {}, `${list.length.toLocaleString("en")} ${list.length === 1 ? "cell" : "cells"} chosen`),
    make("ul", {}, ...rows), make("p", {}, save, " ", none), naming(list), make("div", { class: "row" }, ...pictures),
    ...(list.length > MOST_PICTURES ? [make("p", { class: "hint" }, `The first ${MOST_PICTURES} are here.`)] : []),
  );
}

const outline = draw("polygon", { class: "drawn" });

function placed(event) {
  const box = plot.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * 800, ((event.clientY - box.top) / box.height) * 600];
}

function drawOn(event) {
  const [x, y] = placed(event), last = path[path.length - 1];
  if (Math.hypot(x - last[0], y - last[1]) < 4) return;
  path.push([x, y]);
  outline.setAttribute("points", path.map((point) => point.join(",")).join(" "));
  if (path.length > 2) return;
  plot.append(outline);
  plot.setPointerCapture(event.pointerId);
}

function endDrawing(event) {
  const drawn = path;
  path = null;
  outline.remove();
  if (!drawn || drawn.length < 3 || event.type === "pointercancel") return false;
  choose([...points.keys()].filter((i) => isShown(i) && isInside([data.x[i], data.y[i]], drawn)));
  return true;
}

// ---- what can be saved ----

function fileName(text) {
  return text.trim().toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "wbcprof";
}

function saver(kind, action) {
  const button = make("button", { type: "button", class: "save" }, kind);
  button.addEventListener("click", action);
  return button;
}

function savePicture(image, name) {
  const canvas = make("canvas"), wide = image.src.startsWith("data:image/svg") ? 3 : 1;
  canvas.width = wide * image.naturalWidth;
  canvas.height = wide * image.naturalHeight;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  const light = new Image();
  light.onload = () => {
    pen.drawImage(light, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => download(blob, `${name}.png`, "image/png"));
  };
  light.src = image.src;
}

document.querySelectorAll("figure").forEach((figure) => {
  const image = figure.querySelector("img");
  if (!image) return;
  const title = figure.querySelector("h3"), name = fileName(title.textContent);
  title.append(saver("PNG", () => savePicture(image, name)));
  if (image.src.startsWith("data:image/svg")) title.append(saver("SVG", () => download(
    Uint8Array.from(atob(image.src.split(",")[1]), (letter) => letter.charCodeAt(0)), `${name}.svg`, "image/svg+xml")));
});

// What one reads in a cell; what stands below it in brackets.
function textOf(cell) {
  const copy = cell.cloneNode(true);
  copy.querySelectorAll("br").forEach((line) => line.replaceWith(", "));
  const parts = [...copy.childNodes].map((node) => (node.nodeName === "SMALL" ? (node.textContent.trim() && ` (${node.textContent.trim()})`) : node.textContent));
  return parts.join("").replace(/\s+/g, " ").trim();
}

document.querySelectorAll("main table").forEach((table, number) => {
  const caption = table.caption ? table.caption.textContent : table.closest("section").querySelector("h2").textContent;
  const rows = () => [...table.rows].map((row) => [...row.cells].map((cell) => {
    const items = cell.querySelectorAll("li");
    return items.length ? [...items].map((item) => [...item.querySelector("span:last-child").childNodes].map((node) => node.textContent.trim()).filter(Boolean).join(" ")).join("; ") : textOf(cell);
  }));
  table.parentElement.before(saver("CSV", () => download(csvTable(rows()), `${fileName(caption)}-${number + 1}.csv`)));
});

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));

// ---- wiring ----

data.types.forEach((type, index) => {
  const box = make("input", { type: "checkbox", value: index });
  box.checked = true;
  box.addEventListener("change", () => {
    if (box.checked) shown.add(index); else shown.delete(index);
    paint();
  });
  const key = draw("svg", { viewBox: "-6 -6 12 12", "aria-hidden": "true" });
  key.append(draw("path", symbol(index)));
  at("types").append(make("label", {}, box, " ", key, document.createTextNode("")), " ");
});

function showTypes(all) {
  shown = new Set(all ? data.types.keys() : []);
  document.querySelectorAll("#types input").forEach((box) => { box.checked = all; });
  paint();
}

at("all").addEventListener("click", () => showTypes(true));
at("none").addEventListener("click", () => showTypes(false));
at("colour").addEventListener("change", paint);
at("wrong").addEventListener("change", paint);
at("doubtful").addEventListener("change", paint);
plot.addEventListener("pointerdown", (event) => {
  if (event.button === 0 && event.pointerType !== "touch") path = [placed(event)];
});
plot.addEventListener("pointermove", (event) => {
  if (path && !(event.buttons & 1)) endDrawing({ type: "pointercancel" });  // let go outside
  if (path) drawOn(event);
  hover(path && path.length > 1 ? -1 : pointed(event));
});
plot.addEventListener("pointercancel", endDrawing);
plot.addEventListener("pointerleave", () => hover(-1));
plot.addEventListener("blur", () => hover(-1));
plot.addEventListener("click", (event) => {
  if (endDrawing(event)) return;
  const i = pointed(event);
  if (i >= 0) select(i);
});

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
plot.addEventListener("keydown", (event) => {
  const from = current >= 0 ? current : selected;
  if (event.key in ARROWS) {
    event.preventDefault();
    if (from < 0) return hover(nearest(400, 300)[0]);
    const [dx, dy] = ARROWS[event.key], x = data.x[from], y = data.y[from];
    const ahead = (i) => {
      const along = (data.x[i] - x) * dx + (data.y[i] - y) * dy;
      return along > 0 && along >= Math.abs((data.x[i] - x) * dy + (data.y[i] - y) * dx);
    };
    const [next] = nearest(x, y, ahead);
    if (next >= 0) hover(next);
  } else if (event.key === " " && from >= 0) {
    event.preventDefault();
    choose(chosen.has(from) ? [...chosen].filter((i) => i !== from) : [...chosen, from]);
  } else if (event.key === "Enter" && from >= 0) {
    select(from);
  } else if (event.key === "Escape") {
    hover(-1);
  }
});

document.querySelectorAll("[data-cell]").forEach((button) => {
  button.addEventListener("click", () => {
    select(Number(button.dataset.cell));
    at("map").scrollIntoView();
    panel.setAttribute("tabindex", "-1");
    panel.focus({ preventScroll: true });
  });
});

plot.append(...points, rings);
paint();
document.documentElement.dataset.ready = "yes";
