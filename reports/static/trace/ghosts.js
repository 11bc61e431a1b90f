// Refused drafts in the stream.

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
