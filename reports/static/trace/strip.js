// Pane B: the strip of steps, one column each; its order is that of decoding, or by what steps cost or wasted.

const strip = byId("v-strip");
const MOST_COLUMNS = 2000, BANDS = { counts: [6, 46], entropy: [62, 28], time: [100, 46] }, STRIP_HEIGHT = 150, GUTTER = 64;
// What is in view: places `from` to `to` of `order`, a prompt's steps as they stand beside each other.
const view = { from: 0, to: 0, edges: null, across: "step", by: "time", order: null, placeOf: null };
const COSTS = { time: null, seconds: (s) => T.step_seconds[s], refused: (s) => T.step_drafted[s] - T.step_accepted[s] };
const RANKED = { seconds: "by seconds", refused: "by refused drafts" };

function orderSteps() {
  const [first, stop] = T.prompts[cursor.prompt].steps, cost = COSTS[view.by];
  view.order = Array.from({ length: stop - first }, (_, k) => first + k);
  if (cost) view.order.sort((a, b) => cost(b) - cost(a) || a - b);
  view.placeOf = new Uint32Array(stop - first);
  view.order.forEach((step, k) => { view.placeOf[step - first] = k; });
}
/** The step so many columns beside the cursor's. */
const beside = (n) => view.order[clamp(placeInStrip() + n, 0, view.order.length - 1)];
const placeInStrip = () => view.placeOf[cursor.step - T.prompts[cursor.prompt].steps[0]];

function drawStrip() {
  const { steps } = T.prompts[cursor.prompt];
  const another = drawn.engine !== cursor.engine || drawn.prompt !== cursor.prompt;
  if (another || view.stale) {
    if (another) Object.assign(view, { from: 0, to: steps[1] - steps[0] });
    view.stale = false;
    orderSteps();
    layStrip();
  }
  const s = cursor.step, at = placeInStrip();
  if (at < view.from || at >= view.to) {
    look(view.to - view.from);
    layStrip();
  }
  const column = Math.floor((at - view.from) / view.group), left = view.edges[column], width = Math.max(view.edges[column + 1] - left, 2);
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
  const ranked = RANKED[view.by] ? `${at + 1} of ${view.order.length} ${RANKED[view.by]}: ` : "";
  strip.setAttribute("aria-valuetext", ranked + byId("v-step").textContent);
}

/** Columns of the strip in view, as one path per quantity. Above 2,000 steps a column is the largest of several. */
function layStrip() {
  const width = Math.max(strip.clientWidth || 600, 240), inner = width - GUTTER - 8, n = view.to - view.from;
  const group = Math.ceil(n / MOST_COLUMNS), columns = Math.ceil(n / group);
  const stepsOf = (c) => view.order.slice(view.from + c * group, Math.min(view.from + (c + 1) * group, view.to));
  const most = (values, c, none) => stepsOf(c).reduce((best, s) => (values(s) > best ? values(s) : best), none);
  const extent = { step: () => 1, token: (s) => T.step_token[s + 1] - T.step_token[s], time: (s) => T.step_seconds[s] }[view.across];
  const edges = new Float64Array(columns + 1);
  for (let c = 0; c < columns; c++) edges[c + 1] = edges[c] + stepsOf(c).reduce((sum, s) => sum + extent(s), 0);
  const total = edges[columns] || 1;
  for (let c = 0; c <= columns; c++) edges[c] = GUTTER + (edges[c] / total) * inner;
  const column = (values, none = 0) => Float64Array.from({ length: columns }, (_, c) => most(values, c, none));
  const drafted = column((s) => T.step_drafted[s]), accepted = column((s) => T.step_accepted[s]);
  const entropy = column((s) => T.token_entropy[T.step_token[s]], -1), seconds = column((s) => T.step_seconds[s]);
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
    for (let c = 0; c < columns; c++) if (entropy[c] >= 0) d += `M${((edges[c] + edges[c + 1]) / 2).toFixed(2)} ${(top + height * (1 - entropy[c] / mostNats)).toFixed(2)}h0`;
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
    group > 1 ? `One column is ${group} steps, the largest of each.` : "", n < view.order.length ? ` ${plural(n, "step")} in view.` : "",
    RANKED[view.by] ? ` Sorted ${RANKED[view.by]}, the most on the left.` : "");
  Object.assign(view, { edges, group });
}
/** So many columns in view, the cursor's in their middle. */
function look(span) {
  view.from = clamp(placeInStrip() - (span >> 1), 0, view.order.length - span);
  view.to = view.from + span;
}
function zoom(factor) {
  const whole = view.order.length;
  look(factor === null ? whole : clamp(Math.round((view.to - view.from) * factor), Math.min(8, whole), whole));
  layStrip();
  drawStrip();
}
function sortStrip(by) {
  view.by = by;
  orderSteps();
  look(view.to - view.from);
  layStrip();
  drawStrip();
}
