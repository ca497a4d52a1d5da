// What can be chosen and moved: recipes, overlays, two methods side by side, worst cases of one method.

const DATA = JSON.parse(document.getElementById("data").textContent);
const ENTRIES = Object.assign({}, ...DATA.studies.map((study) => study.entries));
const $ = (id) => document.getElementById(id);

// An element with attributes and children; text is never read as HTML.
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "image", "rect", "line", "text", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function choice(label, options, change) {
  const select = make("select", {}, ...options.map(([value, text]) => make("option", { value }, text)));
  select.addEventListener("change", () => change(select.value));
  return make("label", {}, label, select);
}

// ── recipes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#recipe-"]');
  if (link) {
    event.preventDefault();
    showRecipe(link);
  }
  const button = event.target.closest(".copy");
  if (button) copy(button);
});

function showRecipe(link) {
  const recipe = document.querySelector(link.getAttribute("href"));
  const value = link.classList.contains("n") ? `: ${link.textContent}` : "";
  $("shown-name").textContent = recipe.closest("details").querySelector("summary").textContent + value;
  $("shown-what").textContent = link.getAttribute("title") || link.querySelector("title")?.textContent || "";
  $("shown-text").textContent = recipe.querySelector("pre").textContent;
  $("shown").showModal();
}

function copy(button) {
  const pre = button.parentElement.querySelector("pre");
  const done = () => {
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  };
  const select = () => {
    getSelection().selectAllChildren(pre);
    button.textContent = "Selected; copy it";
  };
  if (navigator.clipboard) navigator.clipboard.writeText(pre.textContent).then(done, select);
  else select();
}

for (const button of document.querySelectorAll(".recipe .copy")) button.hidden = false;
addEventListener("beforeprint", () => {
  const opened = [...document.querySelectorAll("details:not([open])")];
  for (const details of opened) details.open = true;
  addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)), { once: true });
});

// ── overlays ────────────────────────────────────────────────────────────────────────────────────────────────────────────

// After each step: for each token of all grids the one that stands for it, -1 for none.
function states(run) {
  const sizes = run.grids.map(([t, h, w]) => t * h * w), starts = sizes.map((_, i) => sizes.slice(0, i).reduce((a, b) => a + b, 0));
  const whole = sizes.reduce((a, b) => a + b, 0), range = (n, from = 0) => Array.from({ length: n }, (_, i) => i + from);
  const alive = sizes.map((n, i) => range(n, starts[i]));
  let owner = range(whole);
  const found = [{ at: null, by: "", left: whole, whole, starts, owner }];
  for (const step of run.steps) {
    const next = owner.slice();
    for (const cut of step.cuts) {
      const before = cut.of.flatMap((grid) => alive[grid]), now = new Map();
      before.forEach((token, i) => now.set(token, cut.owner[i] < 0 ? -1 : before[cut.owner[i]]));
      owner.forEach((o, token) => { if (now.has(o)) next[token] = now.get(o); });
      for (const grid of cut.of) alive[grid] = alive[grid].filter((token) => now.get(token) === token);
    }
    owner = next;
    found.push({ at: step.at, by: step.by, left: alive.flat().length, whole, starts, owner });
  }
  return found;
}

// How deep a site lies: blocks of the tower, the tower as a whole, the projector, then the layers.
function depth(site) {
  const [, kind, number] = /^(vision block|layer) (\d+)/.exec(site) || [];
  if (kind === "layer") return Number(number);
  return kind ? -1000 + Number(number) : site === "projector" ? -1 : -2;
}

const hue = (token) => `hsl(${Math.round((token * 137.508) % 360)} 75% 45%)`;

function drawn(run, view, state, picture) {
  const [, h, w] = run.grids[view.grid], first = state.starts[view.grid] + view.frame * h * w;
  const cell = (i) => `M${i % w} ${Math.floor(i / w)}h1v1h-1z`, inner = (i) => `M${(i % w) + 0.06} ${Math.floor(i / w) + 0.06}h.88v.88h-.88z`;
  const hosts = new Set(state.owner.filter((o, token) => o >= 0 && o !== token)), merged = new Map();
  let dropped = "", kept = "";
  const svg = make("svg", { viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": `${state.left} of ${state.whole} tokens are left` });
  if (picture) svg.append(make("image", { href: picture, width: w, height: h, preserveAspectRatio: "none" }));
  else svg.append(make("rect", { class: "bare", width: w, height: h }));
  const outlines = [];
  for (let i = 0; i < h * w; i++) {
    const token = first + i, owner = state.owner[token];
    if (owner < 0) dropped += cell(i);
    else if (owner !== token) merged.set(owner, (merged.get(owner) || "") + cell(i));
    else if (hosts.has(token)) outlines.push(make("path", { class: "host", stroke: hue(token), d: inner(i) }));
    else kept += inner(i);
  }
  svg.append(make("path", { class: "dropped", d: dropped }));
  for (const [owner, d] of merged) svg.append(make("path", { fill: hue(owner), opacity: 0.62, d }));
  if (state.at) svg.append(make("path", { class: "kept", d: kept }));
  svg.append(...outlines);
  return svg;
}

function said(run, view, state, event, svg) {
  const [, h, w] = run.grids[view.grid], box = svg.getBoundingClientRect();
  const place = (i) => `row ${Math.floor((i % (h * w)) / w) + 1}, column ${(i % w) + 1}`;
  const x = Math.floor(((event.clientX - box.left) / box.width) * w), y = Math.floor(((event.clientY - box.top) / box.height) * h);
  if (x < 0 || y < 0 || x >= w || y >= h) return "";
  const token = state.starts[view.grid] + view.frame * h * w + y * w + x, owner = state.owner[token];
  if (owner < 0) return `${place(y * w + x)}: dropped`;
  const stands = state.owner.filter((o) => o === owner).length;
  if (owner === token) return `${place(y * w + x)}: kept${stands > 1 ? `, stands for ${stands}` : ""}`;
  const grid = state.starts.findLastIndex((start) => start <= owner), [, gh, gw] = run.grids[grid], i = owner - state.starts[grid];
  const there = grid === view.grid ? place(i) : `row ${Math.floor((i % (gh * gw)) / gw) + 1}, column ${(i % gw) + 1} of grid ${grid + 1}`;
  const frame = Math.floor(i / (gh * gw)), also = frame !== view.frame || grid !== view.grid ? `, frame ${frame + 1}` : "";
  return `${place(y * w + x)}: merged into ${there}${also}`;
}

// One run at one site: its title, and a picture for each view.
function pane(run, pictures, state) {
  const film = run.views.length > 3, under = make("p", { class: "under" });
  const views = run.views.map((view) => {
    const svg = drawn(run, view, state, view.picture === null ? null : pictures[view.picture]);
    svg.addEventListener("pointermove", (event) => (under.textContent = said(run, view, state, event, svg)));
    svg.addEventListener("pointerleave", () => (under.textContent = ""));
    const [t] = run.grids[view.grid], where = run.grids.length > 1 ? `grid ${view.grid + 1} of ${run.grids.length}` : "";
    return make("div", {}, svg, [where, t > 1 ? `frame ${view.frame + 1} of ${t}` : ""].filter(Boolean).join(", "));
  });
  const how = state.at ? `${state.left} of ${state.whole} after ${state.at}` : `all ${state.whole} tokens`;
  const title = make("span", {}, how), name = run.entry ? make("a", { class: "n", href: `#recipe-${run.entry}`, title: state.by }, run.name) : run.name;
  return make("figure", { class: film ? "pane film" : "pane" }, make("figcaption", { title: state.by }, name, title), make("div", { class: "views" }, ...views), under);
}

// Runs on one sample with a slider over the sites at which any of them cuts.
function overlayBrowser(controls, panes, overlays, wanted, byBudget) {
  const budget = (run) => run.name.split(" at ").slice(1).join(" at ");
  let sample = 0, only = "", stop = null;
  const slider = make("input", { type: "range", min: 0, step: 1, "aria-label": "how far into the model" }), where = make("output");
  const show = () => {
    const runs = overlays[sample].runs.filter((run) => wanted(run) && (!only || budget(run) === only));
    const all = runs.map(states), sites = [...new Set(runs.flatMap((run) => run.steps.map((s) => s.at)))].sort((a, b) => depth(a) - depth(b));
    const after = (steps, n) => steps.filter((s) => s.at === null || (n > 0 && depth(s.at) <= depth(sites[n - 1]))).pop();
    let last = sites.length; // at first the deepest site at which everybody still has tokens
    while (last > 1 && all.some((steps) => !after(steps, last).left)) last--;
    slider.max = sites.length;
    slider.value = stop ?? last;
    const n = Number(slider.value);
    where.textContent = n ? `after ${sites[n - 1]}` : "before any cut";
    panes.replaceChildren(...runs.map((run, i) => pane(run, overlays[sample].pictures, after(all[i], n))));
  };
  slider.addEventListener("input", () => { stop = Number(slider.value); show(); });
  const budgets = byBudget ? [...new Set(overlays.flatMap((o) => o.runs.filter(wanted).map(budget)))].filter(Boolean) : [];
  if (budgets.length > 1) only = budgets[budgets.length - 1];
  controls.replaceChildren(choice("sample", overlays.map((o, i) => [i, `${o.question} (${o.sample})`]), (v) => { sample = Number(v); show(); }));
  if (budgets.length > 1) {
    const label = choice("budget", [["", "all"], ...budgets.map((b) => [b, b])], (v) => { only = v; show(); });
    label.querySelector("select").value = only;
    controls.append(label);
  }
  controls.append(make("label", { class: "slider" }, slider, where));
  show();
}

for (const part of document.querySelectorAll("article.overlays")) {
  const { overlays } = DATA.studies[part.dataset.study];
  overlayBrowser(part.querySelector(".controls"), part.querySelector(".panes"), overlays, () => true, true);
}

// ── worst cases ─────────────────────────────────────────────────────────────────────────────────────────────────────────

for (const part of document.querySelectorAll("article.cases")) {
  const cards = [...part.querySelectorAll(".card")], numbers = [...new Set(cards.flatMap((card) => card.dataset.entries.split(" ")))];
  const show = (entry) => {
    for (const card of cards) {
      card.hidden = Boolean(entry) && !card.dataset.entries.split(" ").includes(entry);
      for (const line of card.querySelectorAll("li")) line.hidden = Boolean(entry) && line.dataset.entry !== entry;
    }
  };
  numbers.sort((a, b) => a - b);
  if (numbers.length > 1) part.querySelector(".controls").append(choice("answered otherwise by", [["", "anybody"], ...numbers.map((n) => [n, ENTRIES[n].name])], show));
}

// ── two methods side by side ────────────────────────────────────────────────────────────────────────────────────────────

const FORMATS = {
  share: (x) => x.toFixed(3), signed: (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(3), times: (x) => `${x.toFixed(2)}×`,
  short: (x) => (Math.abs(x) >= 1000 ? Math.round(x).toLocaleString("en") : String(Number(x.toPrecision(3)))),
  size: (x) => scaled(x, [[1e9, "GB"], [1e6, "MB"], [1e3, "KB"]], "B"),
  flops: (x) => scaled(x, [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"]], ""),
};
function scaled(x, units, smallest) {
  const [scale, unit] = units.find(([least]) => Math.abs(x) >= least) || [1, smallest];
  return `${FORMATS.short(x / scale)} ${unit}`.trim();
}

// Two-sided exact p-value of the binomial test on the samples that only one of two does better.
function mcnemar(lost, gained) {
  const n = lost + gained;
  let term = 1, tail = 0;
  for (let k = 0; k <= Math.min(lost, gained); k++) {
    tail += term;
    term *= (n - k) / (k + 1);
  }
  return n ? Math.min(1, Math.exp(Math.log(tail) - (n - 1) * Math.LN2)) : 1;
}

function paired(a, b) {
  if (![a, b].some((e) => e.scores.some((x) => x !== null))) return "";
  const both = a.scores.map((x, i) => [x, b.scores[i]]).filter(([x, y]) => x !== null && y !== null);
  if (a.study !== b.study || !both.length) return "They share no samples.";
  const first = both.filter(([x, y]) => x > y).length, second = both.filter(([x, y]) => y > x).length;
  const p = mcnemar(first, second);
  return `Of ${both.length} samples the first does better on ${first}, the second on ${second}: p = ${Number(p.toPrecision(2))} (exact, two-sided)${p < 0.05 ? "" : ", no significant difference"}.`;
}

function pairTable(a, b, numbers) {
  const columns = DATA.studies.flatMap((s) => s.columns), seen = new Set(), rows = [];
  for (const [name, title, how] of columns) {
    const [x, y] = [a.numbers[name], b.numbers[name]];
    if (seen.has(name) || !(x || y)) continue;
    seen.add(name);
    const cell = (value, n) => {
      if (!value) return make("td", {}, "–");
      const ends = value[1] === null || value[1] === undefined ? [] : [make("i", {}, `[${FORMATS[how](value[1])}, ${FORMATS[how](value[2])}]`)];
      return make("td", {}, make("a", { class: "n", href: `#recipe-${n}`, title: value[3] }, FORMATS[how](value[0])), ...ends);
    };
    const ratio = x && y && x[0] > 0 && y[0] > 0 && !["share", "signed", "times"].includes(how) ? `${(y[0] / x[0]).toFixed(2)}×` : x && y ? FORMATS.signed(y[0] - x[0]) : "";
    rows.push(make("tr", {}, make("th", {}, title), cell(x, numbers[0]), cell(y, numbers[1]), make("td", {}, ratio)));
  }
  const head = make("tr", {}, make("th"), make("th", {}, a.name), make("th", {}, b.name), make("th", {}, "second beside first"));
  return make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

function pairLayers(some) {
  const width = 400, height = 180, top = Math.max(...some.flatMap((e) => [e.numbers.visual_tokens?.[0] || 0, ...e.layers]), 1);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "visual tokens of each layer" });
  const y = (v) => height - 16 - ((height - 34) * v) / top;
  svg.append(make("line", { class: "axis", x1: 0, x2: width, y1: y(0), y2: y(0) }));
  some.forEach((e, i) => {
    const x = (j) => (width * j) / e.layers.length, d = e.layers.map((v, j) => `${j ? "L" : "M"}${x(j)} ${y(v)}H${x(j + 1)}`).join("");
    svg.append(make("path", { fill: "none", stroke: `var(--${e.colour})`, "stroke-width": 2.5, "stroke-dasharray": i ? "6 3" : null, d }, make("title", {}, e.name)));
  });
  svg.append(make("text", { x: 0, y: 11 }, `${FORMATS.short(top)} tokens`), make("text", { x: 0, y: height - 2 }, "layer 0"));
  svg.append(make("text", { x: width, y: height - 2, "text-anchor": "end" }, `layer ${Math.max(...some.map((e) => e.layers.length)) - 1}`));
  const keys = some.map((e, i) => make("span", {}, make("i", { style: `background:var(--${e.colour})` }), `${e.name}${i ? " (dashed)" : ""}`));
  return make("figure", {}, make("figcaption", {}, "Visual tokens of each layer"), svg, make("div", { class: "legend" }, ...keys));
}

function showPair() {
  const numbers = [$("pair-a").value, $("pair-b").value], [a, b] = numbers.map((n) => ENTRIES[n]);
  const layered = [a, b].filter((e) => e.layers.length), found = $("pair-found");
  const right = layered.length ? [pairLayers(layered)] : [];
  found.replaceChildren(make("p", {}, paired(a, b)), make("div", { class: "two" }, pairTable(a, b, numbers), ...right));
  const overlays = a.study === b.study ? DATA.studies[a.study].overlays : [], wanted = (run) => numbers.includes(String(run.entry));
  const some = overlays.filter((o) => o.runs.some(wanted));
  if (!some.length) return;
  const controls = make("div", { class: "controls" }), panes = make("div", { class: "panes" });
  found.append(make("h4", {}, "What stays"), controls, panes);
  overlayBrowser(controls, panes, some, wanted, false);
}

if ($("pair")) {
  const values = [...$("pair-a").options].map((o) => o.value), real = values.filter((n) => ENTRIES[n].name !== "uncompressed");
  const budget = (n) => ENTRIES[n].name.split(" at ")[1], other = real.find((n) => n !== real[0] && budget(n) === budget(real[0]));
  $("pair-a").value = real[0] || values[0];
  $("pair-b").value = other || values.find((n) => n !== $("pair-a").value);
  for (const id of ["pair-a", "pair-b"]) $(id).addEventListener("change", showPair);
  showPair();
}
