// The cost model in the page: the same numbers as foveate.cost, from the coefficients that Python read off its own counts.
// No DOM in here. tests/cost/test_page.py compares every function with Python.

const FIELDS = ["flops", "flops_full", "weights", "reads", "writes", "kv_reads", "kv_writes", "rows", "scores"];
const BITS = { fp32: 32, bf16: 16, fp16: 16, fp8: 8, int8: 8, fp4: 4 };
const NARROW = ["fp4", "fp8", "int8"];
const EAGER_MOVES = 16, EAGER_KERNELS = 7, TILE = 128, GROUP = 128, USABLE = 0.9;
const PARTS = ["vision", "projector", "method", "prefill", "head", "decode"];
const BEFORE_FIRST = PARTS.slice(0, 5);

const sum = (values) => values.reduce((a, b) => a + b, 0);
const size = ([t, h, w]) => t * h * w;
// Python's round: halves go to the even neighbour
const even = (x) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

// ── pixels to tokens; each returns {patches, grids, structure}, grids being [frames, rows, columns] ─────────────────────

const processors = {
  Square: (p, input) => {
    if (input.frames) throw new Error("this model reads images only");
    return { patches: [[1, p.side, p.side]], grids: [[1, p.side, p.side]], structure: 0 };
  },

  AnyResolution: (p, { width, height, frames, alone }) => {
    const whole = [1, p.side, p.side];
    if (frames) {
      if (!p.pool) throw new Error("this model reads images only");
      const half = p.pool === "up" ? Math.ceil(p.side / 2) : Math.floor(p.side / 2);
      const structure = { end: 1, frame: frames, row: frames * half, none: 0 }[p.newline];
      return { patches: [[frames, p.side, p.side]], grids: [[frames, half, half]], structure };
    }
    if (!(alone || p.many)) return { patches: [whole], grids: [whole], structure: 1 };
    let best = null;
    for (const [h, w] of p.pinpoints) {
      const scale = Math.min(w / width, h / height);
      const useful = Math.min(Math.trunc(width * scale) * Math.trunc(height * scale), width * height);
      const waste = useful - h * w;
      if (!best || useful > best[0] || (useful === best[0] && waste > best[1])) best = [useful, waste, h, w];
    }
    const [down, across] = [best[2] / p.pixels, best[3] / p.pixels];
    let [rows, columns] = [down * p.side, across * p.side];
    if (width / height > columns / rows) {
      rows -= 2 * Math.floor((rows - cut(height * (columns / width))) / 2);
    } else {
      columns -= 2 * Math.floor((columns - cut(width * (rows / height))) / 2);
    }
    if (p.most !== null) {
      const ratio = Math.sqrt((rows * columns) / (p.most * p.side ** 2));
      if (ratio > 1.1) [rows, columns] = [over(rows, ratio), over(columns, ratio)];
    }
    if (!(rows * columns)) throw new Error("no tokens are left after unpadding; give a less extreme shape");
    return { patches: Array(1 + down * across).fill(whole), grids: [whole, [1, rows, columns]], structure: rows };
  },

  Resized: (p, { width, height, frames }) => {
    const cell = p.patch * p.merge;
    const made = (t, [rows, columns], structure) => ({
      patches: [[t, rows * p.merge, columns * p.merge]], grids: [[t, rows, columns]], structure,
    });
    if (!frames) return made(1, cells(cell, width, height, 1, 1, ...p.image_pixels), 2);
    const t = Math.ceil(frames / p.frames);
    let [low, high] = p.video_pixels, found;
    if (p.joint) {
      if (frames < p.frames) throw new Error(`a video needs at least ${p.frames} frames here`);
      const scale = Math.max(cell / height, cell / width);
      if (scale > 1) [width, height] = [Math.trunc(width * scale), Math.trunc(height * scale)];
      if (p.per_frame !== null) {
        high = frames * Math.max(Math.min(p.per_frame * cell ** 2, Math.floor(high / frames)), Math.trunc(low * 1.05));
      }
      found = cells(cell, width, height, frames, even(frames / p.frames) * p.frames, low, high);
    } else {
      if (p.per_frame !== null) {
        const budget = Math.trunc(p.per_frame * cell ** 2 * 0.9);
        high = Math.max(Math.min(high, Math.floor((budget * p.frames) / frames)), Math.trunc(low * 1.05));
      }
      found = cells(cell, width, height, 1, 1, low, high);
    }
    return made(t, found, 2 + (p.timestamps ? sum(seconds(p, frames, t).map((s) => 7 + s.toFixed(1).length - 2)) : 0));
  },

  Tiles: (p, { width, height, frames }) => {
    const tokens = Math.floor(p.side / p.merge);
    if (frames) {
      const names = sum(Array.from({ length: frames }, (_, i) => 5 + String(i + 1).length));
      const structure = names + frames - 1;
      return { patches: [[frames, p.side, p.side]], grids: [[frames, tokens, tokens]], structure };
    }
    const tiles = p.cropped && p.high > 1 ? arrangement(p, width, height) : 1;
    const count = tiles + (tiles > 1);
    return { patches: Array(count).fill([1, p.side, p.side]), grids: Array(count).fill([1, tokens, tokens]), structure: 2 };
  },
};

// Python's a // b of floats
function over(a, b) {
  const whole = (a - (a % b)) / b, q = Math.floor(whole);
  return whole - q > 0.5 ? q + 1 : q;
}

const cut = (x) => Math.trunc(even(x * 1e7) / 1e7);

function cells(cell, width, height, n, rounded, low, high) {
  if (Math.max(width, height) / Math.min(width, height) > 200) throw new Error("the longer side may be at most 200 times the shorter");
  const rows = even(height / cell), columns = even(width / cell), pixels = rounded * rows * columns * cell ** 2;
  if (pixels > high) {
    const by = Math.sqrt((n * height * width) / high);
    return [height, width].map((x) => Math.max(1, Math.floor(x / by / cell)));
  }
  if (pixels < low) {
    const by = Math.sqrt(low / (n * height * width));
    return [height, width].map((x) => Math.ceil((x * by) / cell));
  }
  return [rows, columns];
}

function seconds(p, frames, t) {
  const times = Array.from({ length: t * p.frames }, (_, i) => Math.min(i, frames - 1) / 24);
  return Array.from({ length: t }, (_, i) => (times[i * p.frames] + times[i * p.frames + p.frames - 1]) / 2);
}

function arrangement(p, width, height) {
  const choices = [];
  for (let w = 1; w <= p.high; w++) for (let h = 1; h <= p.high; h++) if (w * h >= p.low && w * h <= p.high) choices.push([w, h]);
  let best = [1, 1], off = Infinity;
  for (const [w, h] of choices.sort((a, b) => a[0] * a[1] - b[0] * b[1])) {
    const now = Math.abs(width / height - w / h);
    if (now < off || (now === off && width * height > 0.5 * p.pixels ** 2 * w * h)) [best, off] = [[w, h], now];
  }
  return best[0] * best[1];
}

// `input`: {width, height, count (images), frames (0: images), text, batch}
function promptOf(model, input) {
  const images = input.frames ? 1 : input.count;
  const one = processors[model.processor.kind](model.processor, { ...input, alone: images === 1 });
  const visuals = Array(images).fill(one);
  return {
    visuals, batch: input.batch, grids: visuals.flatMap((v) => v.grids), patches: visuals.flatMap((v) => v.patches),
    visual: sum(visuals.map((v) => sum(v.grids.map(size)))), others: input.text + sum(visuals.map((v) => v.structure)),
  };
}

// ── methods: tokens of each layer, and the method's own work ────────────────────────────────────────────────────────────

// [layer, fraction, per, rounding, cache] of each step
function stepsOf(data, method, depth, keepIndex) {
  const { at, keep } = data.steps[method][depth];
  return at.map(([layer, ...rest], i) => [layer, keep[keepIndex][i], ...rest]).filter((step) => step[1] !== null);
}

function ledgerOf(model, prompt, steps) {
  let left = prompt.grids.map(size);
  const image = prompt.visuals.flatMap((v, i) => v.grids.map(() => i));
  const at = {};
  let forget = 0;
  for (const [layer, fraction, per, rounding, cache] of steps) {
    const groups = new Map();
    prompt.grids.forEach((_, i) => {
      const key = per === "prompt" ? 0 : per === "views" ? image[i] : i;
      groups.set(key, [...(groups.get(key) || []), i]);
    });
    const before = sum(left);
    const next = left.map(() => 0);
    for (const members of groups.values()) {
      const now = sum(members.map((i) => left[i])), frames = prompt.grids[members[0]][0];
      const total = sum(members.map((i) => size(prompt.grids[i])));
      next[members[0]] = per === "frame" ? frames * kept(fraction, total / frames, Math.floor(now / frames), rounding) : kept(fraction, total, now, rounding);
    }
    left = next;
    at[layer] = sum(left);
    if (cache === "all" && at[layer] < before) forget = Math.max(forget, layer);
  }
  let now = prompt.visual;
  const visual = Array.from({ length: model.depth }, (_, i) => (now = at[i] ?? now));
  const cached = forget ? visual.map((n, i) => (i < forget ? visual[forget] : n)) : visual;
  return { visual, cached, text: prompt.others };
}

function kept(fraction, total, left, rounding) {
  if (fraction === 0) return 0;
  const exact = fraction * total + 1e-9;
  return Math.min(left, Math.max(1, Math.floor(rounding === "down" ? exact : exact + 0.5)));
}

// The method's own work, interpolated between sizes of pictures, numbers of pictures and keeps for which Python counted it.
function ownOps(table, prompt, steps, keep) {
  if (!prompt.visual || !steps.length) return [];
  const pictures = sum(prompt.grids.map((g) => g[0])), video = prompt.grids.some((g) => g[0] > 1);
  const units = steps[0][2] !== "prompt" ? prompt.grids.map(([t, h, w]) => [h * w, t])
    : video ? [[prompt.visual / pictures, pictures]] : [[prompt.visual, 1]];
  const found = Array(6).fill(0);
  for (const [tokens, frames] of units) {
    const axes = [[table.tokens, tokens], [table.frames, frames], [table.keeps, keep]].map(([points, x]) => between(points, x));
    for (let field = 0; field < 6; field++) found[field] += Math.max(0, Math.expm1(mixed(table.cells, axes, field)));
  }
  const [flops, moved, launches, other, also, rest] = found, b = prompt.batch;
  const op = (kind, flops, moved, launches) => ({
    name: "own work", part: "method", kind, flops: b * flops, flops_full: b * flops, weights: 0, reads: b * moved,
    writes: 0, kv_reads: 0, kv_writes: 0, rows: b * prompt.visual, scores: 0, repeat: 1, launches,
  });
  return [op("matmul", flops, moved, launches), op("elementwise", other, also, rest)].filter((o) => o.launches >= 0.5);
}

function mixed(cells, [[i, share], ...axes], field) {
  const value = (j) => (axes.length ? mixed(cells[j], axes, field) : cells[j][field]);
  return share === 0 ? value(i) : value(i) + share * (value(i + 1) - value(i));
}

function between(points, x) {
  let i = 0;
  while (i < points.length - 2 && x >= points[i + 1]) i++;
  if (x === points[i + 1]) return [i + 1, 0];
  return [i, Math.log(x / points[i]) / Math.log(points[i + 1] / points[i])];
}

// ── operations ──────────────────────────────────────────────────────────────────────────────────────────────────────────

function fill([name, part, kind, repeat, rows], features) {
  const op = { name, part, kind, repeat };
  FIELDS.forEach((field, i) => {
    op[field] = 0;
    for (const j in rows[i] || {}) op[field] += rows[i][j] * features[j];
  });
  return op;
}

const works = (op) => op.flops || op.reads || op.writes || op.kv_writes;

function causalPairs(n, window) {
  const within = Math.min(n, window);
  return (within * (within + 1)) / 2 + (n - within) * within;
}

// Python's rounded expectation of distinct experts
const touched = (g, rows) => (g.experts ? even(g.experts * (1 - (1 - g.active / g.experts) ** rows)) : 0);

function towerPairs([t, h, w], window, cls) {
  if (window === null) return t * (h * w + cls) ** 2;
  const squares = (x) => Math.floor(x / window) * window ** 2 + (x % window) ** 2;
  return t * squares(h) * squares(w);
}

function towerFeatures(model, prompt) {
  const b = prompt.batch, patches = prompt.patches;
  const pairs = model.windows.map((window) => b * sum(patches.map((g) => towerPairs(g, window, model.cls))));
  return [1, b * sum(patches.map(size)), b * sum(patches.map((g) => g[0])), b * prompt.visual, ...pairs];
}

// [operation, its layer or null] in order; layers that have the same work share its operations.
function operations(model, prompt, ledger, own, newTokens) {
  const b = prompt.batch, tokens = ledger.visual.map((v) => v + ledger.text), ops = [], known = new Map();
  if (prompt.patches.length) {
    const features = towerFeatures(model, prompt);
    const asMade = features[1] / model.merge ** 2 === features[3]; // every merged square is a token: nothing to pack
    ops.push(...model.tower.map((t) => fill(t, features)).filter((op) => works(op) && !(asMade && op.name === "pack")));
  }
  ops.push(...own);
  const outer = [1, b, b * tokens[0], b * tokens[model.depth - 1]];
  ops.push(...model.outer[0].map((t) => fill(t, outer)));
  const rows = ops.map((op) => [op, null]);
  model.layers.forEach((g, i) => {
    for (const layer of g.layers) {
      const n = tokens[layer], key = `${i} ${n}`;
      if (layer && n < tokens[layer - 1]) {
        const moved = b * n * model.hidden;
        rows.push([{ ...fill(["cut", "prefill", "gather", 1, {}], []), reads: moved, writes: moved }, layer]);
      }
      if (!known.has(key)) {
        const pairs = g.window ? b * causalPairs(n, g.window) : 0;
        const features = [1, b * n, b * n * n, pairs, b * ledger.visual[layer], touched(g, b * n)];
        known.set(key, g.templates.map((t) => fill(t, features)).filter(works));
      }
      rows.push(...known.get(key).map((op) => [op, layer]));
    }
  });
  return newTokens > 1 ? [...rows, ...decode(model, ledger, b, newTokens - 1, outer)] : rows;
}

function decode(model, ledger, b, steps, outer) {
  const rows = model.outer[1].map((t) => fill(t, outer)).map((op) => [{ ...op, part: "decode", repeat: op.repeat * steps }, null]);
  const known = new Map();
  model.steps.forEach((g, i) => {
    for (const layer of g.layers) {
      const n = ledger.cached[layer] + ledger.text, key = `${i} ${n}`;
      if (!known.has(key)) known.set(key, stepOps(g, n, b, steps));
      rows.push(...known.get(key).map((op) => [op, layer]));
    }
  });
  return rows;
}

// all steps of a layer whose cache holds n tokens: a window that fills up on the way makes attention two operations
function stepOps(g, n, b, steps) {
  const window = g.window || n + steps, growing = Math.max(0, Math.min(steps, window - n - 1));
  const phases = [[growing, n + (growing + 1) / 2], [steps - growing, window]].filter(([times]) => times);
  return g.templates.flatMap((t) => (t[2] === "attention" ? phases : [[steps, n]]).map(([times, context]) => {
    const op = fill(t, [1, b, b * context, touched(g, b)]);
    return { ...op, repeat: op.repeat * times };
  })).filter(works);
}

// ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

function at(points, x) {
  const after = points.findIndex(([s]) => s > x);
  if (after <= 0) return points[after === 0 ? 0 : points.length - 1][1];
  const [[low, a], [high, b]] = [points[after - 1], points[after]], share = (x - low) / (high - low);
  return x / (((1 - share) * low) / a + (share * high) / b);
}

const FLAT = [[1, 1]];
const idealOf = (hardware) => ({
  ...hardware, launch_us: 0,
  efficiency: { gemm: FLAT, attention: FLAT, causal: FLAT, elementwise: FLAT, vector: 1, memory: 1 },
});

// precision: {dtype, w_bits, a_bits, kv_bits}; eager: whether attention is not fused
function timeOf(op, hardware, precision, eager) {
  const reached = hardware.efficiency, width = BITS[precision.dtype] / 8;
  const quantised = op.kind === "matmul" && (op.part === "prefill" || op.part === "decode") && op.weights > 0;
  const weightBytes = quantised ? weightWidth(precision) : width;
  const moved = op.weights * weightBytes + op.reads * (quantised ? precision.a_bits / 8 : width) + op.writes * width
    + ((op.kv_reads + op.kv_writes) * precision.kv_bits) / 8
    + (eager && op.kind === "attention" ? EAGER_MOVES * op.scores * width : 0);
  const vector = hardware.vector * reached.vector;
  let compute;
  if (op.kind === "matmul" || op.kind === "attention") {
    const bits = quantised ? Math.max(precision.w_bits, precision.a_bits) : BITS[precision.dtype];
    const operand = NARROW.find((t) => bits <= BITS[t] && BITS[t] < BITS[precision.dtype] && t in hardware.flops) || precision.dtype;
    let flops = op.flops, by = at(reached.gemm, op.rows);
    if (op.kind === "attention") {
      const full = eager || op.flops === op.flops_full;
      flops = full ? op.flops_full : op.flops;
      by = at(full ? reached.attention : reached.causal, op.flops_full / (4 * op.writes));
    }
    const unpack = quantised
      ? (precision.w_bits < BITS[operand] ? 2 * op.weights * Math.ceil(op.rows / TILE) : 0)
      : precision.kv_bits < BITS[operand] ? 2 * op.kv_reads : 0;
    compute = flops / (hardware.flops[operand] * by) + unpack / vector;
  } else {
    compute = op.flops / vector;
  }
  const bandwidth = hardware.bandwidth * (op.kind === "matmul" || op.kind === "attention" ? reached.memory : at(reached.elementwise, moved));
  const kernels = eager && op.kind === "attention" ? EAGER_KERNELS : op.launches || 1;
  const [c, m, l] = [compute, moved / bandwidth, kernels * hardware.launch_us * 1e-6].map((x) => x * op.repeat);
  return { flops: op.flops * op.repeat, bytes: moved * op.repeat, compute: c, memory: m, launch: l, seconds: Math.max(c, m) + l };
}

const weightWidth = (p) => (p.w_bits + (p.w_bits < 8 ? 16 / GROUP : 0)) / 8;

// ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

function memoryOf(model, prompt, ledger, precision, eager, newTokens, deviceBytes) {
  const width = BITS[precision.dtype] / 8, p = model.parameters, b = prompt.batch;
  const weights = p.language * weightWidth(precision) + (p.head + p.vision + p.projector + p.embed) * width;
  let elements = 0, widest = 0;
  for (const g of model.layers) {
    for (const layer of g.layers) {
      const grown = ledger.cached[layer] + ledger.text + newTokens - 1;
      elements += g.kv_elements * (g.window ? Math.min(grown, g.window) : grown);
      const n = ledger.visual[layer] + ledger.text;
      widest = Math.max(widest, alive(g.block, n, n, n, eager, width));
    }
  }
  const kv = (b * elements * precision.kv_bits) / 8;
  const prefill = b * ((prompt.visual + prompt.others) * model.hidden + widest) * width;
  let vision = 0;
  if (prompt.patches.length) {
    const sizes = prompt.patches.map(([, h, w]) => h * w + model.cls);
    const total = sum(prompt.patches.map(([t], i) => t * sizes[i])), longest = Math.max(...sizes);
    const together = model.rotary ? longest : total;
    const blocks = model.tower_blocks.map((x) => alive(x, total, x.window ? x.window ** 2 : longest, together, eager, width));
    vision = b * width * (total * model.tower_hidden + Math.max(...blocks));
  }
  const logits = b * model.vocab * (width + 4);
  const peak = weights + Math.max(vision, kv + Math.max(prefill, logits));
  return { weights, kv, vision, prefill, logits, peak, fits: peak <= USABLE * deviceBytes };
}

function alive(block, n, length, together, eager, width) {
  const queries = block.heads * block.head_dim, middle = block.width * Math.max(1, block.active);
  const feed = n * (3 * block.hidden + (block.gated ? 3 : 2) * middle), copies = block.kv_heads < block.heads ? 2 : 0;
  if (!eager) return Math.max(feed, n * (2 * block.hidden + queries * (2 + copies)));
  const scores = block.heads * together * length;
  return Math.max(feed, n * (2 * block.hidden + queries * (1 + copies)) + (width === 2 ? 5 : 2) * scores);
}

// ── all of it ───────────────────────────────────────────────────────────────────────────────────────────────────────────

function costs(model, prompt, ledger, own, setting) {
  const { hardware, precision, eager, newTokens } = setting, ideal = idealOf(hardware), timed = new Map();
  const rows = operations(model, prompt, ledger, own, newTokens).map(([op, layer]) => {
    if (!timed.has(op)) timed.set(op, { reached: timeOf(op, hardware, precision, eager), ideal: timeOf(op, ideal, precision, eager) });
    return { op, layer, ...timed.get(op) };
  });
  const parts = Object.fromEntries(PARTS.map((part) => [part, partOf(rows.filter((row) => row.op.part === part))]));
  const before = (field) => sum(BEFORE_FIRST.map((part) => parts[part][field]));
  return {
    rows, parts, ledger, flops: before("flops"), flops_full: before("flops_full"), ttft_ms: before("ms"),
    ideal_ttft_ms: before("ideal_ms"), decode_ms: parts.decode.ms, t_eq: sum(ledger.visual) / ledger.visual.length,
    memory: memoryOf(model, prompt, ledger, precision, eager, newTokens, hardware.memory),
  };
}

function partOf(rows) {
  const counted = rows.filter((row) => row.op.kind === "matmul" || row.op.kind === "attention");
  const total = (field) => sum(rows.map((row) => row.reached[field]));
  return {
    flops: sum(counted.map((row) => row.op.flops * row.op.repeat)), flops_full: sum(counted.map((row) => row.op.flops_full * row.op.repeat)),
    ms: 1e3 * total("seconds"), ideal_ms: 1e3 * sum(rows.map((row) => row.ideal.seconds)),
    compute: total("compute"), memory: total("memory"), launch: total("launch"),
  };
}

// One setting of the controls with a method: {model, method, keepIndex (in data.keeps), input, hardware, precision, ...}
function compressedCosts(data, setting, prompt) {
  const { model: name, method, keepIndex } = setting, model = data.models[name], cells = data.own.cells[name][method];
  if (!cells) throw new Error(`this page cannot price ${method} for ${name}; foveate cost can`);
  const steps = stepsOf(data, method, model.depth, keepIndex);
  const own = ownOps({ ...data.own, cells }, prompt, steps, data.keeps[keepIndex]);
  return costs(model, prompt, ledgerOf(model, prompt, steps), own, setting);
}

// The whole answer; `method` may be null.
function estimate(data, setting) {
  const model = data.models[setting.model], prompt = promptOf(model, setting.input), none = Array(model.depth).fill(0);
  const whole = costs(model, prompt, ledgerOf(model, prompt, []), [], setting);
  const bare = costs(model, prompt, { visual: none, cached: none, text: prompt.others }, [], { ...setting, newTokens: 1 });
  const compressed = setting.method ? compressedCosts(data, setting, prompt) : null;
  const before = whole.parts.vision.ms + whole.parts.projector.ms;
  return { model, prompt, whole, compressed, vision_share: before / whole.ttft_ms, ceiling: whole.ttft_ms / bare.ttft_ms };
}

if (typeof module !== "undefined") module.exports = { estimate };
