// Pane A: the stream of committed tokens.

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
    setSwitches();
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
