// Pane D: states of the row the cursor means.

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
