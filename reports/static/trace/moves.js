// Moves of the cursor, as keys and clicks make them.

const steps = () => T.prompts[cursor.prompt].steps;
const toStep = (step) => place(atStep(T, clamp(step, steps()[0], steps()[1] - 1)));
const toToken = (token) => { const [first, stop] = T.prompts[cursor.prompt].tokens; place(atToken(T, clamp(token, first, stop - 1))); };
const focusStream = () => (tokenEl(cursor.token) ?? generation().stream).focus({ preventScroll: true });
function toRefusal(direction) {
  for (let s = cursor.step + direction; s >= steps()[0] && s < steps()[1]; s += direction) if (T.step_drafted[s] > T.step_accepted[s]) return toStep(s);
}
/** Another engine or prompt, at the same place of the text where it has one. */
async function change(engine, prompt, focus) {
  const offset = T ? cursor.token - T.prompts[cursor.prompt].tokens[0] : 0;
  await openAt(engine, (t) => {
    const at = clamp(prompt, 0, t.prompts.length - 1), [first, stop] = t.prompts[at].tokens;
    if (stop <= first) return null;
    return at === cursor.prompt ? atToken(t, clamp(first + offset, first, stop - 1)) : atStep(t, t.prompts[at].steps[0] + (shared.start.steps[engine][at] ?? 0));
  });
  if (focus) focusStream();
}
