// An engine's trace as columns, opened when it is looked at, and what follows from them: the step and node of
// tokens, depths, which row of states stands where.

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
