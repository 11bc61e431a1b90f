// Pane C: the draft of the step, as a tree.

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
