// Clicks, switches, and the tooltips of tokens.

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
  toStep(view.order[view.from + column * view.group]);
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
byId("v-order").addEventListener("change", (e) => sortStrip(e.target.value));
byId("v-engine")?.addEventListener("change", (e) => change(e.target.value, cursor.prompt));
byId("v-prompt")?.addEventListener("change", (e) => change(cursor.engine, Number(e.target.value)));
new ResizeObserver(() => { if (T && strip.clientWidth && strip.clientWidth !== view.width) { view.width = strip.clientWidth; view.stale = true; drawStrip(); } }).observe(strip);
addEventListener("hashchange", () => { const named = fromAddress(); if (named) openAt(named.engine, named.where).then(() => root.scrollIntoView({ block: "start", behavior: "instant" })); });
