// What the stream's background shows.

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
