// Pane C, below: the chosen token or node, and what could have stood there.

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
