// One cursor (engine, prompt, step, token or drafted node) over all panes; the address restores it.

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
  if (!playing.moving) pause();
  Object.assign(cursor, next);
  drawStream();
  drawStrip();
  drawTree();
  drawStates();
  drawn = { ...cursor };
  remember();
}

// Opening takes a while, so that what was asked for last may be there first: only that is shown.
let asked = 0;
async function openAt(engine, where) {
  const mine = ++asked, table = await open(engine);
  if (mine !== asked) return;
  const target = where(table);
  if (target) {
    T = table;
    place({ engine, ...target });
  } else if (T) setSwitches();
}
/** The switches say where the cursor is, also where there was nothing to move to. */
function setSwitches() {
  for (const [id, value] of [["v-engine", cursor.engine], ["v-prompt", cursor.prompt]]) if (byId(id)) byId(id).value = value;
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

/** The deepest accepted node of a step, counted in the step; -1 where none was. */
function lastAccepted(step) {
  const first = T.step_node[step];
  let end = -1;
  for (let k = first; k < T.step_node[step + 1]; k++) if (T.node_accepted[k] && (end < 0 || T.node_depth[k] > T.node_depth[first + end])) end = k - first;
  return end;
}
