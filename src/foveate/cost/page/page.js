// Controls in, figures out. All numbers come from estimate() in model.js.

const $ = (id) => document.getElementById(id);
const NUMBERS = ["width", "height", "count", "frames", "text", "new_tokens", "batch"];
const PRECISIONS = {
  "16 bit": [], "fp32": ["fp32"], "W8A8": [null, 8, 8], "W8A8, 8-bit cache": [null, 8, 8, 8], "W4A16": [null, 4, 16],
  "W4A16, 8-bit cache": [null, 4, 16, 8], "W4A4": [null, 4, 4],
};
const TITLES = { vision: "vision tower", projector: "projector", method: "method itself", prefill: "prefill", head: "LM head", decode: "decode" };

const escape = (text) => String(text).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
const fixed = (x, digits = 3) => (x === 0 ? "0" : x >= 10 ** digits ? Math.round(x).toLocaleString("en") : String(Number(x.toPrecision(digits))));
const ms = (x) => `${fixed(x)} ms`;
const bytes = (x) => (x < 1e6 ? `${fixed(x / 1e3)} KB` : x < 1e9 ? `${fixed(x / 1e6)} MB` : `${fixed(x / 1e9)} GB`);
const flops = (x) => (x < 1e12 ? `${fixed(x / 1e9)} G` : `${fixed(x / 1e12)} T`);
const colour = (part) => `var(--${part})`;

function precisionOf(hardware, name) {
  const usual = ["bf16", "fp16", "fp32"].find((t) => t in hardware.flops);
  const [dtype = usual, w, a, kv] = PRECISIONS[name], bits = BITS[dtype || usual];
  return { dtype: dtype || usual, w_bits: w || bits, a_bits: a || bits, kv_bits: kv || bits };
}

function settingOf() {
  const input = Object.fromEntries(NUMBERS.map((id) => [id, Math.round(Number($(id).value))]));
  for (const id of NUMBERS) if (!(input[id] >= 1)) throw new Error(`${id.replace("_", " ")} must be at least 1`);
  const hardware = DATA.hardware[$("hardware").value];
  return {
    model: $("model").value, hardware, precision: precisionOf(hardware, $("precision").value), eager: $("attention").value === "eager",
    method: $("method").value || null, keepIndex: Number($("keep").value), newTokens: input.new_tokens,
    input: { ...input, frames: $("kind").value === "video" ? input.frames : 0 },
  };
}

function update() {
  $("keep-value").textContent = `${Math.round(100 * DATA.keeps[$("keep").value])} %`;
  $("count-label").hidden = $("kind").value === "video";
  $("frames-label").hidden = $("kind").value !== "video";
  $("method-title").textContent = DATA.titles[$("method").value] || "";
  let setting, found;
  try {
    setting = settingOf();
    found = estimate(DATA, setting);
  } catch (error) {
    $("error").textContent = error.message;
    $("error").hidden = false;
    return;
  }
  $("error").hidden = true;
  const runs = found.compressed ? [[setting.method, found.compressed], ["uncompressed", found.whole]] : [["uncompressed", found.whole]];
  $("tiles").innerHTML = tiles(runs, setting);
  $("parts").innerHTML = partBars(runs);
  $("layers").innerHTML = layerBars(found, runs);
  $("sweep").innerHTML = sweep(setting, found);
  $("roofline").innerHTML = roofline(setting, runs[0][1]);
  $("table").innerHTML = table(runs);
  $("sentences").innerHTML = sentences(found, setting).map((line) => `<p>${escape(line)}</p>`).join("");
  $("efficiency").textContent = `${setting.hardware.title}: ${setting.hardware.efficiency.source}.`;
}

// ── figures ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

function tiles(runs, setting) {
  const [[, first], [, whole] = []] = runs;
  const rows = [
    ["time to first token", (c) => c.ttft_ms, ms], ["FLOPs to first token", (c) => c.flops, flops],
    ["T_eq, tokens a layer", (c) => c.t_eq, (x) => fixed(x, 4)], ["KV cache", (c) => c.memory.kv, bytes],
    ["peak memory", (c) => c.memory.peak, (x) => bytes(x) + (x <= USABLE * setting.hardware.memory ? "" : ", does not fit")],
  ];
  if (setting.newTokens > 1) rows.push(["whole answer", (c) => c.ttft_ms + c.decode_ms, ms]);
  return rows.map(([title, value, text]) => {
    const beside = whole ? `<span>without: ${text(value(whole))} <i class="gain">${gain(value(whole), value(first))}</i></span>` : "";
    return `<div class="tile"><span>${title}</span><b>${text(value(first))}</b>${beside}</div>`;
  }).join("");
}

const gain = (before, after) => (after > 0 && Math.abs(before / after - 1) >= 0.005 ? `${fixed(before / after)}×` : "");

function partBars(runs) {
  const most = Math.max(...runs.map(([, c]) => c.ttft_ms));
  const bars = runs.map(([name, c]) => {
    const pieces = BEFORE_FIRST.map((part) => {
      const t = c.parts[part].ms;
      return t ? `<i style="width:${(100 * t) / most}%;background:${colour(part)}" title="${TITLES[part]}: ${ms(t)}"></i>` : "";
    });
    return `<span>${escape(name)}</span><div class="bar">${pieces.join("")}</div><b>${ms(c.ttft_ms)}</b>`;
  });
  const used = BEFORE_FIRST.filter((part) => runs.some(([, c]) => c.parts[part].ms));
  return `<div class="bars">${bars.join("")}</div>${legend(used.map((part) => [part, TITLES[part]]))}`;
}

function layerBars(found, runs) {
  const depth = found.model.depth, times = runs.map(([, c]) => perLayer(c, depth));
  const box = frame(400, 260, [0, depth], [0, Math.max(...times.flat()) * 1.08], "layer", "ms");
  const bars = times[0].map((t, i) => {
    const title = `layer ${i}: ${runs[0][1].ledger.visual[i]} visual tokens, ${ms(t)}`;
    return `<rect x="${box.x(i + 0.1)}" y="${box.y(t)}" width="${box.x(0.8) - box.x(0)}" height="${box.y(0) - box.y(t)}" fill="${colour("prefill")}"><title>${title}</title></rect>`;
  });
  const outline = runs.length > 1 ? `<path class="whole" d="${times[1].map((t, i) => `${i ? "L" : "M"}${box.x(i)} ${box.y(t)}L${box.x(i + 1)} ${box.y(t)}`).join("")}"/>` : "";
  const v = runs[0][1].ledger.visual;
  const names = [["prefill", `${v[0]} visual tokens in layer 0, ${v[depth - 1]} in layer ${depth - 1}`]];
  return box.draw(bars.join("") + outline) + legend(runs.length > 1 ? [...names, ["quiet", "outline: uncompressed"]] : names);
}

function perLayer(c, depth) {
  const times = Array(depth).fill(0);
  for (const row of c.rows) if (row.op.part === "prefill" && row.layer !== null) times[row.layer] += 1e3 * row.reached.seconds;
  return times;
}

function sweep(setting, found) {
  if (!setting.method) return `<p class="quiet">Choose a method.</p>`;
  const times = DATA.keeps.map((_, keepIndex) => compressedCosts(DATA, { ...setting, keepIndex, newTokens: 1 }, found.prompt).ttft_ms);
  const whole = found.whole.ttft_ms, floor = found.whole.parts.vision.ms + found.whole.parts.projector.ms;
  const box = frame(400, 260, [0, 1], [0, Math.max(whole, ...times) * 1.08], "keep", "ms");
  const line = times.map((t, i) => `${i ? "L" : "M"}${box.x(DATA.keeps[i])} ${box.y(t)}`).join("");
  const now = DATA.keeps[setting.keepIndex];
  return box.draw(
    `<rect x="${box.x(0)}" y="${box.y(floor)}" width="${box.x(1) - box.x(0)}" height="${box.y(0) - box.y(floor)}" fill="${colour("vision")}" opacity="0.3"/>`
    + `<path class="whole" d="M${box.x(0)} ${box.y(whole)}L${box.x(1)} ${box.y(whole)}"/>`
    + `<path d="${line}" fill="none" stroke="${colour("prefill")}" stroke-width="2.5"/>`
    + `<circle cx="${box.x(now)}" cy="${box.y(times[setting.keepIndex])}" r="5" fill="${colour("prefill")}"/>`,
  ) + legend([["prefill", setting.method], ["quiet", "uncompressed"], ["vision", "before the language model"]]);
}

function roofline(setting, c) {
  const { hardware, precision } = setting, peak = hardware.flops[precision.dtype];
  const points = c.rows.filter((row) => row.reached.flops && row.reached.bytes)
    .map((row) => [row.op.part, row.reached.flops / row.reached.bytes, row.reached.flops / row.reached.seconds]);
  const log = Math.log10, ridge = peak / hardware.bandwidth;
  const xs = [-1, Math.max(4, Math.ceil(log(ridge) + 1))], ys = [log(peak) - 5, log(peak) + 0.4];
  const box = frame(400, 260, xs, ys, "FLOPs a byte", "FLOP/s", (x) => `10${power(x)}`);
  const inside = points.filter(([, i, f]) => log(f) > ys[0] && log(i) > xs[0]);
  const seen = new Map(inside.map(([part, i, f]) => [`${part} ${box.x(log(i)).toFixed(0)} ${box.y(log(f)).toFixed(0)}`, [part, i, f]]));
  const dots = [...seen.values()].map(([part, i, f]) => `<circle cx="${box.x(log(i))}" cy="${box.y(log(f))}" r="3.5" fill="${colour(part)}" opacity="0.75"/>`);
  const start = Math.max(xs[0], ys[0] - log(hardware.bandwidth));
  const roof = `<path class="whole" d="M${box.x(start)} ${box.y(start + log(hardware.bandwidth))}L${box.x(log(ridge))} ${box.y(log(peak))}L${box.x(xs[1])} ${box.y(log(peak))}"/>`;
  const used = PARTS.filter((part) => inside.some((point) => point[0] === part));
  return box.draw(roof + dots.join("")) + legend(used.map((part) => [part, TITLES[part]]));
}

const power = (x) => String(Math.round(x)).replace(/./g, (c) => ("-0123456789".includes(c) ? "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)] : c));

function table(runs) {
  const cells = (c, part) => [flops(c.parts[part].flops), fixed(c.parts[part].ms), fixed(c.parts[part].ideal_ms), limit(c.parts[part])];
  const head = ["", "FLOPs", "ms", "at peak", "limit", ...(runs.length > 1 ? ["without: FLOPs", "ms"] : [])];
  const body = PARTS.filter((part) => runs.some(([, c]) => c.parts[part].ms)).map((part) => [
    TITLES[part], ...cells(runs[0][1], part), ...(runs.length > 1 ? [flops(runs[1][1].parts[part].flops), fixed(runs[1][1].parts[part].ms)] : []),
  ]);
  const total = ["first token", flops(runs[0][1].flops), fixed(runs[0][1].ttft_ms), fixed(runs[0][1].ideal_ttft_ms), "",
    ...(runs.length > 1 ? [flops(runs[1][1].flops), fixed(runs[1][1].ttft_ms)] : [])];
  const row = (values, tag, name = "") => `<tr class="${name}">${values.map((v) => `<${tag}>${v}</${tag}>`).join("")}</tr>`;
  return `<table>${row(head, "th")}${body.map((r) => row(r, "td")).join("")}${row(total, "td", "total")}</table>`;
}

const limit = (p) => (p.ms ? ["compute", "memory", "launch"].reduce((a, b) => (p[b] > p[a] ? b : a)) : "");

function sentences(found, setting) {
  const { prompt } = found;
  const lines = [
    `${prompt.visual.toLocaleString("en")} visual and ${prompt.others.toLocaleString("en")} other tokens. Without compression the vision tower and projector take `
    + `${Math.round(100 * found.vision_share)} % of the time to the first token, so no method can make that more than ${fixed(found.ceiling)} times faster here.`,
  ];
  if (found.compressed && found.compressed.ttft_ms >= found.whole.ttft_ms) lines.push(`Here ${setting.method} costs more than it saves.`);
  return lines;
}

// ── drawing ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

const svg = (width, height, inside) => `<svg viewBox="0 0 ${width} ${height}" role="img">${inside}</svg>`;
const legend = (rows) => `<div class="legend">${rows.map(([part, name]) => `<span><i style="background:${colour(part)}"></i>${escape(name)}</span>`).join("")}</div>`;

// Axes with ticks: x() and y() place a value, draw() puts what is inside on top.
function frame(width, height, xs, ys, xTitle, yTitle, text = (v) => fixed(v)) {
  const [left, right, top, bottom] = [52, 10, 18, 34];
  const x = (v) => left + ((v - xs[0]) / (xs[1] - xs[0])) * (width - left - right);
  const y = (v) => height - bottom - ((v - ys[0]) / (ys[1] - ys[0])) * (height - top - bottom);
  const lines = ticks(...ys).map((v) => `<line class="axis" x1="${left}" x2="${width - right}" y1="${y(v)}" y2="${y(v)}"/><text x="${left - 6}" y="${y(v) + 4}" text-anchor="end">${text(v)}</text>`);
  const under = ticks(...xs).map((v) => `<text x="${x(v)}" y="${height - bottom + 15}" text-anchor="middle">${text(v)}</text>`);
  const titles = `<text x="${width - right}" y="${height - 3}" text-anchor="end">${xTitle}</text><text x="4" y="11">${yTitle}</text>`;
  return { x, y, draw: (inside) => svg(width, height, lines.join("") + under.join("") + titles + inside) };
}

function ticks(low, high) {
  const rough = (high - low) / 5, scale = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * scale).find((s) => s >= rough), found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + 1e-9 * step; v += step) found.push(Number(v.toPrecision(12)));
  return found;
}

// ── start ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

function options(id, names, text = (name) => name) {
  $(id).innerHTML = names.map((name) => `<option value="${escape(name)}">${escape(text(name))}</option>`).join("");
}

options("model", Object.keys(DATA.models));
options("hardware", Object.keys(DATA.hardware), (name) => name);
options("precision", Object.keys(PRECISIONS));
options("method", ["", ...Object.keys(DATA.steps)], (name) => name || "none");
$("keep").max = DATA.keeps.length - 1;
const start = DATA.start;
for (const id of [...NUMBERS, "model", "hardware"]) $(id).value = start[id] || (id === "frames" ? 16 : 1);
$("kind").value = start.frames ? "video" : "image";
$("method").value = start.method in DATA.steps ? start.method : "";
$("keep").value = DATA.keeps.reduce((best, keep, i) => (Math.abs(keep - start.keep) < Math.abs(DATA.keeps[best] - start.keep) ? i : best), 0);
$("controls").addEventListener("input", update);
update();
