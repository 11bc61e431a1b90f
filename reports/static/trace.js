"use strict";
// The decode-trace viewer: one cursor (engine, prompt, step, token or drafted node) over four panes: stream, step
// strip, draft of the step, states. Steps are drawn from columns when they are looked at. Text only ever goes in
// through textContent and attributes.
(() => {
  const root = document.getElementById("viewer");
  if (!root) return;
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

  // Columns ---------------------------------------------------------------------------------------
  const shared = JSON.parse(byId("trace-shared").textContent);
  const word = (at) => shared.words[at] ?? "?";
  const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i1: Int8Array, i2: Int16Array, i4: Int32Array, f4: Float32Array };
  const bytesOf = (text) => {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return bytes;
  };
  const inflate = (bytes) => new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();

  async function read(engine) {
    const block = JSON.parse(all("script[data-columns]").find((el) => el.dataset.columns === engine).textContent);
    const bytes = bytesOf(block.data);
    const buffer = block.gzip ? await inflate(bytes) : bytes.buffer;
    const table = { ...block, data: null };
    for (const [name, [kind, start, count]] of Object.entries(block.columns)) table[name] = new ARRAYS[kind](buffer, start, count);
    return derive(table);
  }

  /** What follows from the columns: the step and node of tokens, depths, which row stands where. */
  function derive(t) {
    const nSteps = t.step_drafted.length;
    t.token_step = new Uint32Array(t.token_word.length);
    t.token_node = new Int32Array(t.token_word.length).fill(-1);
    t.node_depth = new Uint16Array(t.node_word.length);
    for (let s = 0; s < nSteps; s++) {
      const first = t.step_node[s], token = t.step_token[s], stop = t.step_token[s + 1];
      for (let i = token; i < stop; i++) t.token_step[i] = s;
      for (let n = first; n < t.step_node[s + 1]; n++) {
        const parent = t.node_parent[n];
        t.node_depth[n] = parent < 0 ? 1 : t.node_depth[first + parent] + 1;
        const at = token + t.node_depth[n] - 1;
        if (t.node_accepted[n] && at < stop && t.token_word[at] === t.node_word[n]) t.token_node[at] = n;
      }
    }
    t.text_row = t.prompts.map(() => new Map());
    t.node_row = new Map();
    if (t.rows) {
      for (let r = 0; r < t.row_node.length; r++) {
        if (t.row_node[r] < 0) t.text_row[t.row_prompt[r]].set(t.row_position[r], r);
        else t.node_row.set(t.row_node[r], r);
      }
    }
    return t;
  }
  const tables = new Map();
  const open = (engine) => {
    if (!tables.has(engine)) tables.set(engine, read(engine));
    return tables.get(engine);
  };
  const promptOf = (t, step) => t.prompts.findIndex(({ steps }) => step >= steps[0] && step < steps[1]);
  const positionOf = (t, token) => {
    const held = t.prompts[promptOf(t, t.token_step[token])];
    return held.length + token - held.tokens[0];
  };
  const isTried = (t, node) => { // something was decided about it: its parent is text
    const first = t.step_node[stepOfNode(t, node)], parent = t.node_parent[node];
    return parent < 0 || t.node_accepted[first + parent] === 1;
  };
  const stepOfNode = (t, node) => {
    let low = 0, high = t.step_drafted.length;
    while (high - low > 1) { const mid = (low + high) >> 1; if (t.step_node[mid] <= node) low = mid; else high = mid; }
    return low;
  };
  const outcome = (t, node) => (t.node_accepted[node] ? "accepted" : isTried(t, node) ? "refused" : "never reached");

  // The cursor ------------------------------------------------------------------------------------
  // step, token, node: rows of the engine's tables; node is -1 where the token was not drafted.
  const cursor = { engine: null, prompt: 0, step: 0, token: 0, node: -1 };
  let T = null, drawn = {};

  const atStep = (t, step) => ({ prompt: promptOf(t, step), step, token: t.step_token[step], node: t.token_node[t.step_token[step]] ?? -1 });
  const atToken = (t, token) => ({ ...atStep(t, t.token_step[token]), token, node: t.token_node[token] });
  const atNode = (t, node) => {
    const step = stepOfNode(t, node), first = t.step_token[step];
    const token = Math.min(first + t.node_depth[node] - 1, Math.max(t.step_token[step + 1] - 1, first));
    return { ...atStep(t, step), token, node };
  };

  /** Move the cursor; panes that show something else than before are drawn anew. */
  function place(next) {
    Object.assign(cursor, next);
    drawStream();
    drawStrip();
    drawTree();
    drawStates();
    drawn = { ...cursor };
    remember();
  }
  async function openAt(engine, where) {
    T = await open(engine);
    const target = where(T);
    if (target) place({ engine, ...target });
  }

  // The address restores the cursor. It is written when the cursor rests: browsers ration such writes.
  const address = () => {
    const steps = T.prompts[cursor.prompt].steps;
    const end = cursor.node >= 0 ? `node=${cursor.node - T.step_node[cursor.step] + 1}` : `position=${positionOf(T, cursor.token)}`;
    return `#engine=${encodeURIComponent(cursor.engine)}&prompt=${cursor.prompt + 1}&step=${cursor.step - steps[0] + 1}&${end}`;
  };
  let resting = 0, written = false;
  function remember() {
    byId("v-link").setAttribute("href", address());
    clearTimeout(resting);
    if (written) resting = setTimeout(() => history.replaceState(null, "", address()), 250);
    written = true;
  }
  /** The place an address names, as far as it exists; null where it names none. */
  function fromAddress() {
    const said = new URLSearchParams(location.hash.slice(1));
    const engine = said.get("engine");
    if (!all("script[data-columns]").some((el) => el.dataset.columns === engine)) return null;
    return { engine, where: (t) => {
      const number = (name, low, high) => clamp((parseInt(said.get(name), 10) || low + 1) - 1, low, high - 1);
      const prompt = number("prompt", 0, t.prompts.length), { steps, tokens, length } = t.prompts[prompt];
      if (steps[1] <= steps[0]) return null;
      const step = steps[0] + number("step", 0, steps[1] - steps[0]);
      const nNodes = t.step_node[step + 1] - t.step_node[step];
      if (said.has("node") && nNodes) return atNode(t, t.step_node[step] + number("node", 0, nNodes));
      const position = parseInt(said.get("position"), 10);
      const token = tokens[0] + position - length;
      return token >= t.step_token[step] && token < t.step_token[step + 1] ? atToken(t, token) : atStep(t, step);
    } };
  }

  // Pane A: the stream -----------------------------------------------------------------------------
  const generations = all(".generation").map((el) => ({
    el, engine: el.dataset.engine, prompt: Number(el.dataset.prompt), stream: el.querySelector(".stream"), tokens: null, shade: "entropy", ghosts: false,
  }));
  for (const { stream } of generations) stream.querySelector(".tok")?.setAttribute("tabindex", "0");
  const generation = () => generations.find((g) => g.engine === cursor.engine && g.prompt === cursor.prompt);
  const tokenEl = (token) => {
    const g = generation();
    g.tokens ??= all(".tok", g.stream);
    return g.tokens[token - T.prompts[cursor.prompt].tokens[0]] ?? null;
  };
  const tipOf = (i) => {
    const leading = [...Array(T.n_top).keys()].map((k) => `${word(T.top_word[i * T.n_top + k])} ${percent(T.top_prob[i * T.n_top + k])}`).join(", ");
    return `${word(T.token_word[i])} (id ${shared.ids[T.token_word[i]]}, position ${positionOf(T, i)}, ${T.kinds[T.token_kind[i]]}): probability ${percent(T.token_prob[i])}, rank ${T.token_rank[i]}, entropy ${nats(T.token_entropy[i])} nats, ${ms(secondsOf(i))} ms. Leading: ${leading}`;
  };
  const secondsOf = (i) => {
    const s = T.token_step[i];
    return T.step_seconds[s] / (T.step_token[s + 1] - T.step_token[s]);
  };

  function drawStream() {
    const g = generation();
    if (drawn.engine !== cursor.engine || drawn.prompt !== cursor.prompt) {
      for (const other of generations) other.el.classList.toggle("shown", other === g);
      for (const [id, value] of [["v-engine", cursor.engine], ["v-prompt", cursor.prompt]]) if (byId(id)) byId(id).value = value;
      shade();
      if (root.classList.contains("with-ghosts")) drawGhosts();
    }
    if (!g.marked) tokenEl(T.prompts[cursor.prompt].tokens[0])?.setAttribute("tabindex", "-1");
    for (const el of g.marked ?? []) { el.classList.remove("at", "near"); el.removeAttribute("aria-current"); el.setAttribute("tabindex", "-1"); }
    g.marked = [];
    for (let i = T.step_token[cursor.step]; i < T.step_token[cursor.step + 1]; i++) {
      const el = tokenEl(i);
      if (!el) continue;
      el.classList.add(i === cursor.token ? "at" : "near");
      g.marked.push(el);
    }
    const el = tokenEl(cursor.token) ?? g.tokens.at(-1);
    if (!el) return;
    g.marked.push(el);
    el.setAttribute("tabindex", "0");
    el.setAttribute("aria-current", "true");
    const box = el.getBoundingClientRect(), frame = g.stream.getBoundingClientRect();
    if (box.top < frame.top) g.stream.scrollTop -= frame.top - box.top + 24;
    else if (box.bottom > frame.bottom) g.stream.scrollTop += box.bottom - frame.bottom + 24;
  }

  // Backgrounds: value of a token from 0 to 1, null where it has none, and what the ends of the scale are.
  const settledAt = (i) => {
    const row = T.rows ? T.text_row[cursor.prompt].get(positionOf(T, i) - 1) : undefined;
    if (row === undefined) return null;
    const n = T.rows.layers.length, k = T.rows.n_top, final = T.row_word[((row + 1) * n - 1) * k];
    let layer = n - 1;
    while (layer > 0 && T.row_word[(row * n + layer - 1) * k] === final) layer--;
    return layer;
  };
  const drafted = (i, value) => (T.token_node[i] < 0 ? null : value(T.token_node[i]));
  const QUANTITIES = {
    none: () => ({ of: () => null, ends: null }),
    entropy: () => ({ of: (i) => T.token_entropy[i] / shared.nats, ends: ["0", `${shared.nats} nats`] }),
    surprise: () => ({ of: (i) => -Math.log(Math.max(T.token_prob[i], 1e-9)) / shared.nats, ends: ["0", `${shared.nats} nats`] }),
    p: () => ({ of: (i) => T.token_prob[i], ends: ["0", "1"] }),
    q: () => ({ of: (i) => drafted(i, (n) => T.node_q[n]), ends: ["0", "1; drafted tokens only"] }),
    overlap: () => ({ of: (i) => drafted(i, (n) => Math.min(T.node_q[n], T.node_p[n])), ends: ["0", "1; drafted tokens only"] }),
    rank: () => ({ of: (i) => Math.log2(T.token_rank[i] + 1) / 4, ends: ["first", "16th or later"] }),
    seconds: (first, stop) => {
      const sorted = Float64Array.from({ length: stop - first }, (_, k) => secondsOf(first + k)).sort();
      const most = sorted[Math.floor((sorted.length - 1) * 0.98)] || 1e-9;
      return { of: (i) => secondsOf(i) / most, ends: ["0", `${ms(most)} ms`] };
    },
    settled: () => ({ of: (i) => { const at = settledAt(i); return at === null ? null : at / Math.max(T.rows.layers.length - 1, 1); }, ends: T.rows ? [`layer ${T.rows.layers[0]}`, `${T.rows.layers.at(-1)}`] : ["", "not read for this engine"] }),
  };
  function shade() {
    const name = byId("v-quantity").value, g = generation(), [first, stop] = T.prompts[cursor.prompt].tokens;
    const quantity = QUANTITIES[name](first, stop), scale = byId("v-scale");
    scale.replaceChildren();
    if (quantity.ends) scale.append(quantity.ends[0], " ", ...[...Array(9).keys()].map((k) => html("i", { class: `q${k}` })), " ", quantity.ends[1]);
    if (g.shade === name) return;
    g.shade = name;
    for (let i = first; i < stop; i++) {
      const el = tokenEl(i);
      if (!el) break;
      const share = quantity.of(i), level = share === null ? 0 : Math.round(clamp(share, 0, 1) * 8);
      el.className = el.className.replace(/ q\d/, "") + (level ? ` q${level}` : "");
    }
  }

  // Ghosts: of every step with a refusal one refused branch, struck out before the token that came instead: the most
  // trusted one where the accepted path ends, else the most trusted sibling along it.
  const GHOSTS = 6;
  const nodesOf = (step) => Array.from({ length: T.step_node[step + 1] - T.step_node[step] }, (_, k) => T.step_node[step] + k);
  const mostTrusted = (nodes) => nodes.reduce((best, n) => (best < 0 || T.node_q[n] > T.node_q[best] ? n : best), -1);
  function refusedBranch(step) {
    const nodes = nodesOf(step), first = T.step_node[step], refused = nodes.filter((n) => !T.node_accepted[n]);
    const below = (n) => refused.filter((m) => T.node_parent[m] === n);
    let best = mostTrusted(below(lastAccepted(step)));
    if (best < 0) best = mostTrusted(refused.filter((n) => isTried(T, n)));
    const branch = [];
    for (; best >= 0 && branch.length < GHOSTS; best = mostTrusted(below(best - first))) branch.push(best);
    return branch;
  }
  function drawGhosts() {
    const g = generation();
    if (g.ghosts) return;
    g.ghosts = true;
    const [first, stop] = T.prompts[cursor.prompt].steps;
    for (let step = first; step < stop; step++) {
      if (T.step_drafted[step] <= T.step_accepted[step]) continue;
      const branch = refusedBranch(step);
      if (!branch.length) continue;
      const instead = T.step_token[step] + T.node_depth[branch[0]] - 1, last = T.step_token[step + 1] - 1;
      const ghost = html("del", { class: "ghost k-rejected", "data-node": branch[0] }, html("b", {}, shared.marks.rejected), ...branch.map((n) => html("bdi", {}, word(T.node_word[n]))));
      if (instead <= last) tokenEl(instead)?.before(ghost);
      else tokenEl(last)?.after(ghost);
    }
  }
  function toggleGhosts() {
    const on = root.classList.toggle("with-ghosts");
    byId("v-ghosts").setAttribute("aria-pressed", String(on));
    if (on) drawGhosts();
  }

  // Pane B: the step strip -------------------------------------------------------------------------
  const strip = byId("v-strip");
  const MOST_COLUMNS = 2000, BANDS = { counts: [6, 46], entropy: [62, 28], time: [100, 46] }, STRIP_HEIGHT = 150, GUTTER = 64;
  const view = { from: 0, to: 0, edges: null, across: "step" };

  function drawStrip() {
    const { steps } = T.prompts[cursor.prompt];
    if (drawn.engine !== cursor.engine || drawn.prompt !== cursor.prompt || view.stale) {
      if (drawn.engine !== cursor.engine || drawn.prompt !== cursor.prompt) [view.from, view.to] = steps;
      view.stale = false;
      layStrip();
    }
    const s = cursor.step;
    if (s < view.from || s >= view.to) {
      const span = view.to - view.from;
      view.from = clamp(s - (span >> 1), steps[0], steps[1] - span);
      view.to = view.from + span;
      layStrip();
    }
    const column = Math.floor((s - view.from) / view.group), left = view.edges[column], width = Math.max(view.edges[column + 1] - left, 2);
    view.mark.setAttribute("x", left - 1);
    view.mark.setAttribute("width", width + 2);
    const rest = T.step_seconds[s] - T.step_seconds_draft[s] - T.step_seconds_verify[s];
    const emitted = T.step_token[s + 1] - T.step_token[s], entropy = T.token_entropy[T.step_token[s]];
    const number = s - steps[0] + 1;
    const said = (name, text) => html("b", { "data-field": name }, text);
    byId("v-step").replaceChildren(
      "step ", said("number", String(number)), ` of ${steps[1] - steps[0]}: `, said("n_drafted", String(T.step_drafted[s])), " drafted, ", said("n_accepted", String(T.step_accepted[s])), " accepted, ",
      said("n_emitted", String(emitted)), " emitted · ", said("entropy", nats(entropy)), " nats before it · ", said("seconds", ms(T.step_seconds[s])), " ms: draft ",
      said("seconds_draft", ms(T.step_seconds_draft[s])), ", pass ", said("seconds_verify", ms(T.step_seconds_verify[s])), ", rest ", said("rest", ms(Math.max(rest, 0))));
    strip.setAttribute("aria-valuemax", steps[1] - steps[0]);
    strip.setAttribute("aria-valuenow", number);
    strip.setAttribute("aria-valuetext", byId("v-step").textContent);
  }

  /** Columns of the strip in view, as one path per quantity. Above 2,000 steps a column is the largest of several. */
  function layStrip() {
    const width = Math.max(strip.clientWidth || 600, 240), inner = width - GUTTER - 8, n = view.to - view.from;
    const group = Math.ceil(n / MOST_COLUMNS), columns = Math.ceil(n / group);
    const most = (values, c) => { let best = 0; for (let s = view.from + c * group; s < Math.min(view.from + (c + 1) * group, view.to); s++) best = Math.max(best, values(s)); return best; };
    const extent = { step: () => 1, token: (s) => T.step_token[s + 1] - T.step_token[s], time: (s) => T.step_seconds[s] }[view.across];
    const edges = new Float64Array(columns + 1);
    for (let c = 0; c < columns; c++) { let sum = 0; for (let s = view.from + c * group; s < Math.min(view.from + (c + 1) * group, view.to); s++) sum += extent(s); edges[c + 1] = edges[c] + sum; }
    const total = edges[columns] || 1;
    for (let c = 0; c <= columns; c++) edges[c] = GUTTER + (edges[c] / total) * inner;
    const column = (values) => Float64Array.from({ length: columns }, (_, c) => most(values, c));
    const drafted = column((s) => T.step_drafted[s]), accepted = column((s) => T.step_accepted[s]);
    const entropy = column((s) => T.token_entropy[T.step_token[s]]), seconds = column((s) => T.step_seconds[s]);
    const draft = column((s) => T.step_seconds_draft[s]), verify = column((s) => T.step_seconds_verify[s]);
    const mostDrafted = Math.max(...drafted, 1), mostNats = Math.max(...entropy, 1e-6), mostSeconds = Math.max(...seconds, 1e-9);
    const gap = inner / columns > 3 ? 1 : 0;
    // One path of bars: from `low` to `high` of the band's height.
    const bars = ([top, height], high, low = () => 0) => {
      let d = "";
      for (let c = 0; c < columns; c++) {
        const a = low(c) * height, b = high(c) * height;
        if (b - a <= 0) continue;
        const x = edges[c], w = Math.max(edges[c + 1] - x - gap, 0.4);
        d += `M${x.toFixed(2)} ${(top + height - a).toFixed(2)}v${(a - b).toFixed(2)}h${w.toFixed(2)}v${(b - a).toFixed(2)}z`;
      }
      return d;
    };
    const dots = ([top, height]) => {
      let d = "";
      for (let c = 0; c < columns; c++) d += `M${((edges[c] + edges[c + 1]) / 2).toFixed(2)} ${(top + height * (1 - entropy[c] / mostNats)).toFixed(2)}h0`;
      return d;
    };
    const axis = ([top, height], name, most) => [
      svg("text", { x: GUTTER - 8, y: top + 10, class: "name" }, name), svg("text", { x: GUTTER - 8, y: top + 23 }, `to ${most}`),
      svg("path", { class: "base", d: `M${GUTTER} ${top + height}h${inner}` })];
    view.mark = svg("rect", { class: "here", y: 4, height: STRIP_HEIGHT - 6, rx: 3 });
    strip.replaceChildren(svg("svg", { width, height: STRIP_HEIGHT, "aria-hidden": "true", focusable: "false" },
      view.mark,
      ...axis(BANDS.counts, "drafts", String(mostDrafted)), svg("path", { class: "drafted", d: bars(BANDS.counts, (c) => drafted[c] / mostDrafted) }),
      svg("path", { class: "accepted", d: bars(BANDS.counts, (c) => accepted[c] / mostDrafted) }),
      ...axis(BANDS.entropy, "entropy", `${nats(mostNats)}`), svg("path", { class: "dots", d: dots(BANDS.entropy), "stroke-width": clamp(inner / columns, 1.5, 5) }),
      ...axis(BANDS.time, "ms", ms(mostSeconds)),
      svg("path", { class: "pass", d: bars(BANDS.time, (c) => verify[c] / mostSeconds) }),
      svg("path", { class: "draft", d: bars(BANDS.time, (c) => (verify[c] + draft[c]) / mostSeconds, (c) => verify[c] / mostSeconds) }),
      svg("path", { class: "rest", d: bars(BANDS.time, (c) => Math.max(seconds[c], verify[c] + draft[c]) / mostSeconds, (c) => (verify[c] + draft[c]) / mostSeconds) })));
    const swatch = (kind, text) => html("span", { class: `swatch ${kind}` }, text);
    byId("v-strip-note").replaceChildren(
      swatch("drafted", "drafted and verified"), swatch("accepted", "accepted"), swatch("dots", "target's entropy before the step, nats"),
      swatch("pass", "from below: target's pass"), swatch("draft", "draft"), swatch("rest", "rest"),
      group > 1 ? `One column is ${group} steps, the largest of each.` : "", n < T.prompts[cursor.prompt].steps[1] - T.prompts[cursor.prompt].steps[0] ? ` ${plural(n, "step")} in view.` : "");
    Object.assign(view, { edges, group });
  }
  function zoom(factor) {
    const { steps } = T.prompts[cursor.prompt], whole = steps[1] - steps[0];
    const span = factor === null ? whole : clamp(Math.round((view.to - view.from) * factor), Math.min(8, whole), whole);
    view.from = clamp(cursor.step - (span >> 1), steps[0], steps[1] - span);
    view.to = view.from + span;
    view.stale = true;
    drawStrip();
  }

  // Pane C: the draft of the step ------------------------------------------------------------------
  const tree = byId("v-tree");
  const FOLD_FROM = 64, TABLE_FROM = 512, SIBLINGS = 8, FEW_SIBLINGS = 3, DX = 116, DY = 27, W = 96, H = 21;
  let shape = null; // what is drawn: items in order, by key
  const unfolded = new Set();

  /** Items of a step's tree: drafted nodes that are not folded away, the target's own token, "more" of long families. */
  function layTree(step) {
    const first = T.step_node[step], n = T.step_node[step + 1] - first, lastToken = T.step_token[step + 1] - 1;
    const children = Array.from({ length: n + 1 }, () => []); // by parent + 1
    for (let k = 0; k < n; k++) children[T.node_parent[first + k] + 1].push(k);
    for (const kids of children) kids.sort((a, b) => T.node_accepted[first + b] - T.node_accepted[first + a] || T.node_q[first + b] - T.node_q[first + a] || a - b);
    const below = new Int32Array(n); // descendants
    for (let k = n - 1; k >= 0; k--) { const p = T.node_parent[first + k]; if (p >= 0) below[p] += below[k] + 1; }
    let end = -1;
    for (let k = 0; k < n; k++) if (T.node_accepted[first + k] && (end < 0 || T.node_depth[first + k] > T.node_depth[first + end])) end = k;
    const own = T.step_token[step + 1] > T.step_token[step] && T.token_node[lastToken] < 0 ? lastToken : null;
    const folds = n > FOLD_FROM, siblings = n > TABLE_FROM ? FEW_SIBLINGS : SIBLINGS;
    const items = [];
    let row = -1;
    const add = (item) => { items.push(item); return item; };
    const family = (k, depth, parent) => { // children of node k (-1: the text)
      const kids = children[k + 1];
      const shown = folds && kids.length > siblings && !unfolded.has(`more${k}`) ? kids.slice(0, siblings) : kids;
      const entries = [...(own !== null && k === end ? [{ key: "own", token: own }] : []), ...shown.map((kid) => ({ key: `n${kid}`, kid }))];
      if (shown.length < kids.length) entries.push({ key: `more${k}`, more: kids.length - shown.length });
      entries.forEach((entry, i) => {
        if (i || row < 0) row++;
        const item = add({ ...entry, depth, row, parent, level: depth });
        if (entry.kid === undefined) return;
        item.node = first + entry.kid;
        const hides = folds && !T.node_accepted[item.node] && below[entry.kid] > 0 && !unfolded.has(item.key);
        if (hides) item.folded = below[entry.kid];
        else if (below[entry.kid] || (own !== null && entry.kid === end)) family(entry.kid, depth + 1, item);
        item.foldable = folds && !T.node_accepted[item.node] && below[entry.kid] > 0;
      });
    };
    family(-1, 1, null);
    return { step, first, n, items, folds, byKey: new Map(items.map((item) => [item.key, item])) };
  }

  const fit = (text, room = 10) => {
    let used = 0, out = "";
    for (const c of text) { used += c.codePointAt(0) > 0x2e7f ? 2 : 1; if (used > room) return `${out}…`; out += c; }
    return out;
  };
  const MARK_OF = { accepted: "accepted", refused: "rejected" };
  function itemLook(item) {
    if (item.more) return { kind: "more", text: `+${item.more}`, label: `${item.more} more refused siblings; Enter shows them` };
    if (item.token !== undefined) {
      const kind = T.kinds[T.token_kind[item.token]];
      return { kind: "own", mark: shared.marks[kind] ?? "?", p: T.token_prob[item.token], text: word(T.token_word[item.token]), label: `${word(T.token_word[item.token])}, ${kind}: the target's own token, p ${percent(T.token_prob[item.token])}` };
    }
    const n = item.node, what = outcome(T, n);
    return {
      kind: what.replace(" ", "-"), mark: shared.marks[MARK_OF[what]] ?? "–", p: T.node_p[n], q: T.node_q[n], text: word(T.node_word[n]),
      label: `${word(T.node_word[n])}, ${what}: draft q ${percent(T.node_q[n])}, target p ${percent(T.node_p[n])}${item.folded ? `; ${item.folded} below it folded, Enter unfolds` : ""}`,
    };
  }
  const keyOfCursor = () => (cursor.node >= 0 ? `n${cursor.node - T.step_node[cursor.step]}` : "own");

  function drawTree(force = false) {
    const moved = drawn.engine !== cursor.engine || drawn.step !== cursor.step;
    if (moved) unfolded.clear();
    const had = tree.contains(document.activeElement);
    if (moved || force) {
      reveal();
      shape = layTree(cursor.step);
      paintTree();
    } else if (cursor.node >= 0 && !shape.byKey.has(keyOfCursor())) {
      reveal();
      shape = layTree(cursor.step);
      paintTree();
    }
    const key = keyOfCursor();
    let chosen = null;
    for (const item of shape.items) {
      const at = item.key === key;
      item.el.classList.toggle("at", at);
      item.el.setAttribute("aria-selected", String(at));
      item.el.setAttribute("tabindex", at ? "0" : "-1");
      if (at) chosen = item;
    }
    (chosen ?? shape.items[0])?.el.setAttribute("tabindex", "0");
    const shown = chosen ?? shape.items[0];
    if (shown) {
      const x = shown.depth * DX, y = shown.row * DY;
      if (x < tree.scrollLeft || x + W > tree.scrollLeft + tree.clientWidth) tree.scrollLeft = Math.max(x - tree.clientWidth / 2, 0);
      if (y < tree.scrollTop || y + DY * 2 > tree.scrollTop + tree.clientHeight) tree.scrollTop = Math.max(y - tree.clientHeight / 2, 0);
      if (had) shown.el.focus({ preventScroll: true });
    }
    drawCard();
  }
  /** Unfold what hides the cursor's node. */
  function reveal() {
    if (cursor.node < 0) return;
    const first = T.step_node[cursor.step], n = T.step_node[cursor.step + 1] - first;
    if (n <= FOLD_FROM) return;
    for (let k = cursor.node - first; k >= 0; k = T.node_parent[first + k]) {
      const parent = T.node_parent[first + k];
      if (parent >= 0) unfolded.add(`n${parent}`);
      if (!T.node_accepted[first + k]) unfolded.add(`more${parent}`);
    }
  }
  function paintTree() {
    const { items, step, n, first, folds } = shape;
    const deepest = Math.max(1, ...items.map((item) => item.depth)), rows = Math.max(1, ...items.map((item) => item.row + 1));
    const width = (deepest + 1) * DX + 8, height = rows * DY + 8;
    const token = T.step_token[step], prompt = T.prompts[cursor.prompt];
    const before = token > prompt.tokens[0] ? T.token_word[token - 1] : prompt.last;
    const xOf = (depth) => 4 + depth * DX, yOf = (row) => 4 + row * DY;
    const edges = [], boxes = [];
    for (const item of items) {
      const look = itemLook(item);
      const x = xOf(item.depth), y = yOf(item.row) + H / 2, px = xOf(item.depth - 1) + W, py = yOf(item.parent ? item.parent.row : 0) + H / 2;
      const bend = px + (x - px) / 2;
      edges.push(svg("path", { class: `edge ${look.kind}`, d: y === py ? `M${px} ${py}H${x}` : `M${px} ${py}C${bend} ${py} ${px} ${y} ${x} ${y}`, "stroke-width": (0.8 + 3.2 * (look.q ?? 0.1)).toFixed(2) }));
      const text = svg("text", { x: 20, y: 14.5 }, fit(look.text, item.folded ? 7 : 10));
      item.el = svg("g", { class: `node ${look.kind}`, transform: `translate(${x} ${yOf(item.row)})`, role: "treeitem", "aria-level": item.level, "aria-label": look.label, "aria-selected": "false", "aria-expanded": item.foldable ? String(!item.folded) : null, tabindex: "-1", "data-key": item.key },
        svg("rect", { class: "frame", width: W, height: H, rx: 5 }), svg("rect", { class: "share", width: W, height: H, rx: 5, "fill-opacity": ((look.p ?? 0) * 0.6).toFixed(3) }),
        look.mark ? svg("text", { x: 7, y: 14.5, class: "mark" }, look.mark) : null, text,
        item.folded ? svg("text", { x: W - 5, y: 14.5, class: "folded" }, `+${item.folded}`) : null);
      boxes.push(item.el);
    }
    const origin = svg("g", { class: "node text", transform: `translate(4 4)`, "aria-hidden": "true" }, svg("rect", { class: "frame", width: W, height: H, rx: 5 }), svg("text", { x: 8, y: 14.5 }, before < 0 ? "" : fit(word(before), 12)));
    const drawing = svg("svg", { width, height, role: "tree", "aria-label": `draft of step ${step - prompt.steps[0] + 1}` }, ...edges, origin, ...boxes);
    tree.replaceChildren(drawing, ...(n > TABLE_FROM ? [nodeTable(first, n)] : []));
    tree.scrollTop = tree.scrollLeft = 0;
    const refused = n - T.step_accepted[step];
    byId("v-draft").textContent = n ? `${plural(n, "node")}, ${T.step_accepted[step]} accepted, ${refused} refused or never reached` : T.step_drafted[step] ? `${T.step_drafted[step]} drafted; left out of the page, the run file holds them` : "nothing drafted in this step";
    byId("v-tree-note").replaceChildren(
      n ? "Edge width: the drafter's q; fill: the target's p. " : "", n ? html("span", { class: "swatch line-accepted" }, "accepted") : "", n ? html("span", { class: "swatch line-refused" }, "refused") : "",
      n ? html("span", { class: "swatch line-never" }, "never reached: what it follows was refused") : "", folds ? " Refused branches and long families are folded; Enter or a click unfolds." : "", n > TABLE_FROM ? " All nodes are in the table below the tree." : "");
  }
  function nodeTable(first, n) {
    const cells = (tag, values) => html("tr", {}, ...values.map((value) => html(tag, {}, String(value))));
    const rows = [];
    for (let k = 0; k < n; k++) { const m = first + k; rows.push(cells("td", [k + 1, T.node_parent[m] + 1 || "text", word(T.node_word[m]), percent(T.node_q[m]), percent(T.node_p[m]), outcome(T, m)])); }
    return html("table", {}, html("thead", {}, cells("th", ["node", "follows", "token", "q", "p", "outcome"])), html("tbody", {}, ...rows));
  }
  function unfold(item) {
    unfolded.has(item.key) ? unfolded.delete(item.key) : unfolded.add(item.key);
    const key = item.key;
    shape = layTree(cursor.step);
    paintTree();
    drawTree();
    (shape.byKey.get(key) ?? shape.byKey.get(keyOfCursor()) ?? shape.items[0])?.el.focus({ preventScroll: true });
  }

  /** What is known of the chosen token, and what could have stood there. */
  function drawCard() {
    const t = cursor.token, n = cursor.node, step = cursor.step, first = T.step_node[step];
    const facts = [];
    const fact = (name, value, field) => facts.push(html("div", {}, html("dt", {}, name), html("dd", field ? { "data-field": field } : {}, value)));
    const bdi = (at) => html("bdi", { translate: "no" }, word(at));
    let source;
    if (n >= 0) {
      const parent = T.node_parent[n], family = [];
      for (let k = first; k < T.step_node[step + 1]; k++) if (T.node_parent[k] === parent) family.push(k);
      fact("token", bdi(T.node_word[n])); fact("id", String(shared.ids[T.node_word[n]]), "id"); fact("outcome", outcome(T, n), "outcome");
      fact("draft q", percent(T.node_q[n]), "q"); fact("target p", percent(T.node_p[n]), "p");
      fact("min(1, p/q)", T.node_q[n] > 0 ? percent(Math.min(1, T.node_p[n] / T.node_q[n])) : "–");
      fact("depth", String(T.node_depth[n]), "depth"); fact("sibling", `${family.indexOf(n) + 1} of ${family.length}`);
      fact("entropy after", `${nats(T.node_entropy[n])} nats`, "entropy");
      if (T.sources[T.node_source[n]]) fact("source", T.sources[T.node_source[n]]);
      source = `${T.source}/nodes, row ${n}`;
    } else {
      const kind = T.kinds[T.token_kind[t]];
      fact("token", bdi(T.token_word[t])); fact("id", String(shared.ids[T.token_word[t]]), "id"); fact("kind", kind, "outcome");
      fact("target p", percent(T.token_prob[t]), "p"); fact("rank", String(T.token_rank[t]), "rank"); fact("entropy before", `${nats(T.token_entropy[t])} nats`, "entropy");
      const settled = settledAt(t);
      if (settled !== null) fact("settled at", `layer ${T.rows.layers[settled]}`);
      source = `${T.source}/tokens, row ${t}`;
    }
    byId("v-node").replaceChildren(html("dl", {}, ...facts), candidates(), html("p", { class: "source" }, html("code", {}, source)));
  }
  /** The target's candidates at the place of the chosen token, beside what was drafted there. */
  function candidates() {
    const n = cursor.node, step = cursor.step, first = T.step_node[step];
    const parent = n >= 0 ? T.node_parent[n] : lastAccepted(step);
    const isText = parent < 0 || T.node_accepted[first + parent];
    const at = T.step_token[step] + (parent < 0 ? 0 : T.node_depth[first + parent]);
    const known = new Map();
    if (isText && at < T.step_token[step + 1]) for (let k = 0; k < T.n_top; k++) known.set(T.top_word[at * T.n_top + k], { p: T.top_prob[at * T.n_top + k] });
    for (let k = first; k < T.step_node[step + 1]; k++) {
      if (T.node_parent[k] !== parent) continue;
      known.set(T.node_word[k], { p: T.node_p[k], q: T.node_q[k], what: outcome(T, k) });
    }
    if (isText && at < T.step_token[step + 1] && T.token_node[at] < 0) {
      const own = known.get(T.token_word[at]) ?? { p: T.token_prob[at] };
      known.set(T.token_word[at], { ...own, what: own.what ?? T.kinds[T.token_kind[at]] });
    }
    const rows = [...known].sort((a, b) => b[1].p - a[1].p).slice(0, 10);
    const bar = (share, kind) => { const el = html("i", { class: `bar ${kind}` }); el.style.width = `${(clamp(share, 0, 1) * 100).toFixed(1)}%`; return el; };
    const chosen = n >= 0 ? T.node_word[n] : T.token_word[cursor.token];
    return html("table", { class: "candidates" },
      html("caption", {}, isText ? "What could have stood here" : "Drafted here; the target's own candidates are not in the trace"),
      html("thead", {}, html("tr", {}, ...["token", "target p", "draft q", ""].map((name) => (name ? html("th", { scope: "col" }, name) : html("td"))))),
      html("tbody", {}, ...rows.map(([at, { p, q, what }]) => html("tr", at === chosen ? { class: "at" } : {},
        html("th", { scope: "row" }, html("bdi", { translate: "no" }, fit(word(at), 18))), html("td", {}, bar(p, "p"), percent(p)), html("td", {}, ...(q === undefined ? ["not drafted"] : [bar(q, "q"), percent(q)])), html("td", {}, what ?? "")))));
  }
  function lastAccepted(step) {
    const first = T.step_node[step];
    let end = -1;
    for (let k = first; k < T.step_node[step + 1]; k++) if (T.node_accepted[k] && (end < 0 || T.node_depth[k] > T.node_depth[first + end])) end = k - first;
    return end;
  }

  // Pane D: states ---------------------------------------------------------------------------------
  const whichRow = byId("v-row");
  let cells = null;
  /** The row read through the layers that the cursor means, and what it is. */
  function stateRow() {
    const n = cursor.node, refused = n >= 0 && !T.node_accepted[n], position = positionOf(T, cursor.token);
    const text = (p) => ({ row: T.text_row[cursor.prompt].get(p), position: p, refused: false });
    const start = positionOf(T, T.step_token[cursor.step]) - 1;
    if (!refused) return text(whichRow.value === "before" ? position - 1 : position);
    if (whichRow.value === "own") return { row: T.node_row.get(n), position: start + T.node_depth[n], refused: true };
    const parent = T.node_parent[n], above = T.step_node[cursor.step] + parent;
    if (parent < 0 || T.node_accepted[above]) return text(start + (parent < 0 ? 0 : T.node_depth[above]));
    return { row: T.node_row.get(above), position: start + T.node_depth[above], refused: true };
  }
  function drawStates() {
    const said = byId("v-state"), box = byId("v-states");
    if (drawn.engine !== cursor.engine) drawMissing();
    drawFiring();
    if (!T.rows) { said.textContent = "This engine's trace holds no rows read through the layers."; box.replaceChildren(); cells = null; return; }
    const { row, position, refused } = stateRow(), chosen = cursor.node >= 0 ? T.node_word[cursor.node] : T.token_word[cursor.token];
    const verb = whichRow.value === "before" ? "decides" : "is";
    said.replaceChildren(`row at position ${position}, ${refused ? "a refused draft's (counterfactual)" : "committed"}: ${verb} `, html("bdi", { translate: "no" }, word(chosen)));
    if (row === undefined) { said.append(T.rows.left_out ? ` · not among the rows read (${T.rows.left_out} were left out)` : " · not read"); box.replaceChildren(); cells = null; return; }
    const { layers, n_top: k } = T.rows, n = layers.length;
    if (!cells || cells.table !== T) { cells = stateTable(layers, k); box.replaceChildren(cells.el); }
    const final = T.row_word[((row + 1) * n - 1) * k];
    let mostNorm = 0;
    for (let l = 0; l < n; l++) mostNorm = Math.max(mostNorm, T.row_norm[row * n + l]);
    for (let l = 0; l < n; l++) {
      const line = cells.lines[l];
      for (let c = 0; c < k; c++) {
        const at = T.row_word[(row * n + l) * k + c], share = T.row_share[(row * n + l) * k + c] / 65535, td = line.top[c];
        td.word.textContent = fit(word(at), 11);
        td.share.textContent = `${Number((share * 100).toPrecision(2))}%`;
        td.el.className = `h${Math.round(clamp(share, 0, 1) * 8)}${at === final ? " final" : ""}${at === chosen ? " hit" : ""}`;
      }
      line.entropy.textContent = nats(T.row_entropy[row * n + l]);
      const norm = T.row_norm[row * n + l];
      line.norm.textContent = brief(norm);
      line.bar.style.width = `${(100 * Math.log1p(norm) / Math.log1p(mostNorm)).toFixed(1)}%`;
    }
  }
  /** Features that fire at the row, strongest first; states are held of the text's own rows. */
  function drawFiring() {
    const { position, refused } = stateRow();
    byId("v-firing").replaceChildren(...T.features.map(({ name, site, n, first }, i) => {
      const row = first[cursor.prompt] + position, fired = [];
      if (refused || row >= first[cursor.prompt + 1]) return html("p", { class: "key" }, `${name}: states of refused drafts are not held`);
      for (let k = row * n; k < (row + 1) * n; k++) if (T[`fired_latent_${i}`][k] >= 0) fired.push(html("span", {}, `#${T[`fired_latent_${i}`][k]} `, html("b", {}, brief(T[`fired_value_${i}`][k]))));
      return html("p", { class: "facts-line" }, `${name} at ${site}: `, ...(fired.length ? fired : ["nothing fires"]));
    }));
  }
  function stateTable(layers, k) {
    const surplus = shared.surplus && new Map(shared.surplus.layers.map((layer, i) => [layer, shared.surplus.value[i]]));
    const heads = ["layer", ...["first", "second", "third"].slice(0, k), "entropy", "norm (log)", ...(surplus ? ["surplus"] : [])];
    const lines = [], rows = layers.map((layer) => {
      const top = Array.from({ length: k }, () => { const w = html("bdi", { translate: "no" }), share = html("small"); return { word: w, share, el: html("td", {}, w, " ", share) }; });
      const entropy = html("td", { class: "n" }), bar = html("i", { class: "bar norm" }), norm = html("span");
      lines.push({ top, entropy, norm, bar });
      return html("tr", {}, html("th", { scope: "row" }, String(layer)), ...top.map((td) => td.el), entropy, html("td", { class: "n" }, bar, norm),
        surplus ? html("td", { class: "n" }, surplus.has(layer) ? nats(surplus.get(layer)) : "") : null);
    });
    const el = html("table", { class: "layers" }, html("thead", {}, html("tr", {}, ...heads.map((name) => html("th", { scope: "col" }, name)))), html("tbody", {}, ...rows));
    return { el, lines, table: T };
  }
  function drawMissing() {
    const notes = [];
    if (T.rows) notes.push(html("p", { class: "key" }, "Logit lens and L2 norm of the residual stream after each layer; bold where the last layer's choice leads, underlined where the chosen token stands.", shared.surplus ? ` Surplus: usable I(H; W₁ | W₀) in nats, of all the text that was read, not of this row (/results/${shared.surplus.result}).` : ""));
    for (const [what, command] of Object.entries(shared.missing[cursor.engine] ?? {})) notes.push(html("p", { class: "key" }, `${what}: `, html("code", {}, command)));
    byId("v-missing").replaceChildren(...notes);
  }

  // Input ------------------------------------------------------------------------------------------
  const steps = () => T.prompts[cursor.prompt].steps;
  const toStep = (step) => place(atStep(T, clamp(step, steps()[0], steps()[1] - 1)));
  const toToken = (token) => { const [first, stop] = T.prompts[cursor.prompt].tokens; place(atToken(T, clamp(token, first, stop - 1))); };
  const focusStream = () => (tokenEl(cursor.token) ?? generation().stream).focus({ preventScroll: true });
  function toRefusal(direction) {
    for (let s = cursor.step + direction; s >= steps()[0] && s < steps()[1]; s += direction) if (T.step_drafted[s] > T.step_accepted[s]) return toStep(s);
  }
  /** Another engine or prompt, at the same place of the text where it has one. */
  async function change(engine, prompt, focus) {
    const offset = T ? cursor.token - T.prompts[cursor.prompt].tokens[0] : 0;
    await openAt(engine, (t) => {
      const at = clamp(prompt, 0, t.prompts.length - 1), [first, stop] = t.prompts[at].tokens;
      if (stop <= first) return null;
      return at === cursor.prompt ? atToken(t, clamp(first + offset, first, stop - 1)) : atStep(t, t.prompts[at].steps[0] + (shared.start.steps[engine][at] ?? 0));
    });
    if (focus) focusStream();
  }

  const STREAM_KEYS = { ArrowRight: () => toToken(cursor.token + 1), ArrowLeft: () => toToken(cursor.token - 1), ArrowDown: () => toStep(cursor.step + 1), ArrowUp: () => toStep(cursor.step - 1),
    PageDown: () => toStep(cursor.step + 1), PageUp: () => toStep(cursor.step - 1), Home: () => toStep(steps()[0]), End: () => toToken(T.prompts[cursor.prompt].tokens[1] - 1) };
  const STRIP_KEYS = { ArrowRight: () => toStep(cursor.step + 1), ArrowUp: () => toStep(cursor.step + 1), ArrowLeft: () => toStep(cursor.step - 1), ArrowDown: () => toStep(cursor.step - 1),
    PageDown: () => toStep(cursor.step + 10), PageUp: () => toStep(cursor.step - 10), Home: () => toStep(steps()[0]), End: () => toStep(steps()[1] - 1),
    "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: () => zoom(null) };

  function treeKey(key) {
    const el = document.activeElement.closest?.("[data-key]"), item = el && shape.byKey.get(el.dataset.key);
    if (!item) return false;
    const { items } = shape, column = items.filter((other) => other.depth === item.depth), i = column.indexOf(item);
    const choose = (other) => {
      if (!other) return true;
      if (other.more) { el.setAttribute("tabindex", "-1"); other.el.setAttribute("tabindex", "0"); other.el.focus({ preventScroll: true }); return true; }
      place(other.token !== undefined ? atToken(T, other.token) : atNode(T, other.node));
      shape.byKey.get(other.key)?.el.focus({ preventScroll: true });
      return true;
    };
    switch (key) {
      case "ArrowRight": return item.folded ? (unfold(item), true) : choose(items.find((other) => other.parent === item));
      case "ArrowLeft": return choose(item.parent);
      case "ArrowDown": return choose(column[i + 1]);
      case "ArrowUp": return choose(column[i - 1]);
      case "Home": return choose(items[0]);
      case "End": return choose(items.at(-1));
      case "Enter": case " ": if (item.foldable || item.more) unfold(item); return true;
      default: return false;
    }
  }
  root.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || !T) return;
    const within = (el) => el.contains(e.target);
    let done = true;
    if (e.target.classList.contains("tok") && STREAM_KEYS[e.key]) { STREAM_KEYS[e.key](); focusStream(); }
    else if (within(strip) && STRIP_KEYS[e.key]) STRIP_KEYS[e.key]();
    else if (within(tree) && treeKey(e.key)) { /* done */ }
    else done = false;
    if (done) e.preventDefault();
  });
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || !T || /INPUT|SELECT|TEXTAREA/.test(document.activeElement?.tagName) || document.querySelector("dialog[open]")) return;
    const inStream = document.activeElement?.classList.contains("tok");
    if (e.key === "g") toggleGhosts();
    else if (!root.contains(document.activeElement)) return;
    else if (e.key === "n" || e.key === "p") { toRefusal(e.key === "n" ? 1 : -1); if (inStream) focusStream(); }
    else if (e.key === "e" && byId("v-engine")) {
      const names = [...byId("v-engine").options].map((option) => option.value);
      change(names[(names.indexOf(cursor.engine) + 1) % names.length], cursor.prompt, inStream);
    } else if (e.key === "t") {
      const table = byId(`trace-${cursor.engine}-steps`)?.querySelector("details");
      if (table) { table.open = true; table.querySelector(".scroll").focus(); }
    }
  });
  const inStreams = (e) => e.target.closest?.(".tok");
  for (const { el: box, stream } of generations) {
    // The tooltip and its live text are report.js's; what it says is written when it is needed.
    const tell = (e) => {
      const el = inStreams(e), g = generation();
      if (!el || !T || g?.el !== box) return;
      g.tokens ??= all(".tok", g.stream);
      el.dataset.tip = tipOf(T.prompts[cursor.prompt].tokens[0] + g.tokens.indexOf(el));
    };
    stream.addEventListener("pointerover", tell);
    stream.addEventListener("focusin", tell);
    stream.addEventListener("click", (e) => {
      const el = inStreams(e), ghost = e.target.closest?.(".ghost");
      if (!T || (!el && !ghost)) return;
      if (ghost) return place(atNode(T, Number(ghost.dataset.node)));
      toToken(T.prompts[cursor.prompt].tokens[0] + generation().tokens.indexOf(el));
      focusStream();
    });
  }
  strip.addEventListener("click", (e) => {
    const x = e.clientX - strip.getBoundingClientRect().left + strip.scrollLeft;
    let column = view.edges.findIndex((edge) => edge > x) - 1;
    if (column < 0) column = x < GUTTER ? 0 : view.edges.length - 2;
    toStep(view.from + column * view.group);
  });
  tree.addEventListener("click", (e) => {
    const item = shape?.byKey.get(e.target.closest?.("[data-key]")?.dataset.key);
    if (!item) return;
    if (item.more || (item.foldable && keyOfCursor() === item.key)) return unfold(item);
    place(item.token !== undefined ? atToken(T, item.token) : atNode(T, item.node));
    shape.byKey.get(item.key)?.el.focus({ preventScroll: true });
  });
  byId("v-ghosts").addEventListener("click", toggleGhosts);
  byId("v-quantity").addEventListener("change", shade);
  whichRow.addEventListener("change", drawStates);
  byId("v-across").addEventListener("change", (e) => { view.across = e.target.value; view.stale = true; drawStrip(); });
  byId("v-engine")?.addEventListener("change", (e) => change(e.target.value, cursor.prompt));
  byId("v-prompt")?.addEventListener("change", (e) => change(cursor.engine, Number(e.target.value)));
  new ResizeObserver(() => { if (T && strip.clientWidth && strip.clientWidth !== view.width) { view.width = strip.clientWidth; view.stale = true; drawStrip(); } }).observe(strip);
  addEventListener("hashchange", () => { const named = fromAddress(); if (named) openAt(named.engine, named.where).then(() => root.scrollIntoView({ block: "start", behavior: "instant" })); });

  // Begin where the address says, or at the engine's most telling step.
  const begin = async () => {
    const named = fromAddress(), { engine } = shared.start;
    root.dataset.ready = "true";
    if (named) await openAt(named.engine, named.where);
    if (!T || cursor.engine === null) {
      await openAt(engine, (t) => {
        const prompt = t.prompts.findIndex(({ tokens }) => tokens[1] > tokens[0]);
        return prompt < 0 ? null : atStep(t, t.prompts[prompt].steps[0] + shared.start.steps[engine][prompt]);
      });
    }
    if (named) root.scrollIntoView({ block: "start", behavior: "instant" });
    root.dataset.open = String(cursor.engine !== null);
    performance.mark("viewer-open");
  };
  begin().catch((error) => {
    delete root.dataset.ready;
    root.prepend(html("p", { class: "note" }, `The viewer cannot be shown here (${error.message}); the streams below are whole.`));
  });
})();
