// Keys of the viewer.

const STREAM_KEYS = { ArrowRight: () => toToken(cursor.token + 1), ArrowLeft: () => toToken(cursor.token - 1), ArrowDown: () => toStep(cursor.step + 1), ArrowUp: () => toStep(cursor.step - 1),
  PageDown: () => toStep(cursor.step + 1), PageUp: () => toStep(cursor.step - 1), Home: () => toStep(steps()[0]), End: () => toToken(T.prompts[cursor.prompt].tokens[1] - 1) };
const STRIP_KEYS = { ArrowRight: () => toStep(beside(1)), ArrowUp: () => toStep(beside(1)), ArrowLeft: () => toStep(beside(-1)), ArrowDown: () => toStep(beside(-1)),
  PageDown: () => toStep(beside(10)), PageUp: () => toStep(beside(-10)), Home: () => toStep(view.order[0]), End: () => toStep(view.order.at(-1)),
  "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: () => zoom(null) };

function treeKey(key) {
  const el = document.activeElement.closest?.("[data-key]"), item = el && shape.byKey.get(el.dataset.key);
  if (!item) return false;
  const { items } = shape, column = items.filter((other) => other.depth === item.depth), i = column.indexOf(item);
  const choose = (other) => {
    if (!other) return true;
    if (other.more) { el.setAttribute("tabindex", "-1"); other.el.setAttribute("tabindex", "0"); other.el.focus({ preventScroll: true }); return true; }
    place(other.token !== undefined ? atToken(T, other.token) : atNode(T, other.node));
    shape.byKey.get(other.key)?.el.focus({ preventScroll: true });
    return true;
  };
  switch (key) {
    case "ArrowRight": return item.folded ? (unfold(item), true) : choose(items.find((other) => other.parent === item));
    case "ArrowLeft": return choose(item.parent);
    case "ArrowDown": return choose(column[i + 1]);
    case "ArrowUp": return choose(column[i - 1]);
    case "Home": return choose(items[0]);
    case "End": return choose(items.at(-1));
    case "Enter": case " ": if (item.foldable || item.more) unfold(item); return true;
    default: return false;
  }
}
root.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || !T) return;
  const within = (el) => el.contains(e.target);
  let done = true;
  if (e.target.classList.contains("tok") && STREAM_KEYS[e.key]) { STREAM_KEYS[e.key](); focusStream(); }
  else if (within(strip) && STRIP_KEYS[e.key]) STRIP_KEYS[e.key]();
  else if (within(tree) && treeKey(e.key)) { /* done */ }
  else done = false;
  if (done) e.preventDefault();
});
document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || !T || /INPUT|SELECT|TEXTAREA/.test(document.activeElement?.tagName) || document.querySelector("dialog[open]")) return;
  const inStream = document.activeElement?.classList.contains("tok");
  if (e.key === "g") toggleGhosts();
  else if (!root.contains(document.activeElement)) return;
  else if (e.key === "n" || e.key === "p") { toRefusal(e.key === "n" ? 1 : -1); if (inStream) focusStream(); }
  else if (e.key === "r") playButton.click();
  else if (e.key === "e" && byId("v-engine")) {
    const names = [...byId("v-engine").options].map((option) => option.value);
    change(names[(names.indexOf(cursor.engine) + 1) % names.length], cursor.prompt, inStream);
  } else if (e.key === "t") {
    const table = byId(`trace-${cursor.engine}-steps`)?.querySelector("details");
    if (table) { table.open = true; table.querySelector(".scroll").focus(); }
  }
});
