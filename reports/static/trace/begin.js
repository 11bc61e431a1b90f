// Begin where the address says, or at the engine's most telling step.

const begin = async () => {
  const named = fromAddress(), { engine } = shared.start;
  root.dataset.ready = "true";
  if (named) await openAt(named.engine, named.where);
  if (!T || cursor.engine === null) {
    await openAt(engine, (t) => {
      const prompt = t.prompts.findIndex(({ tokens }) => tokens[1] > tokens[0]);
      return prompt < 0 ? null : atStep(t, t.prompts[prompt].steps[0] + shared.start.steps[engine][prompt]);
    });
  }
  if (named) root.scrollIntoView({ block: "start", behavior: "instant" });
  root.dataset.open = String(cursor.engine !== null);
  performance.mark("viewer-open");
};
begin().catch((error) => {
  delete root.dataset.ready;
  root.prepend(html("p", { class: "note" }, `The viewer cannot be shown here (${error.message}); the streams below are whole.`));
});
