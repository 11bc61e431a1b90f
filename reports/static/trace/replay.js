// The stream as it came: steps follow one another in the seconds they took, times a pace. Tokens of steps that are
// not over are not seen. Any other move of the cursor, and a hidden page, end it.

const playing = { on: false, moving: false, hidden: 0 };
const playButton = byId("v-play"), still = matchMedia("(prefers-reduced-motion: reduce)");

function play() {
  if (still.matches) return;
  const { steps: [first, stop], tokens: [, end] } = T.prompts[cursor.prompt];
  const from = cursor.step + 1 < stop ? cursor.step : first, pace = Number(byId("v-pace").value);
  Object.assign(playing, { on: true, hidden: T.step_token[from] });
  playButton.setAttribute("aria-pressed", "true");
  root.classList.add("playing");
  for (let i = playing.hidden; i < end; i++) tokenEl(i)?.classList.add("ahead");
  let step = from - 1, over = 0; // seconds after which the step under way is over
  const started = performance.now();
  const frame = (now) => {
    if (!playing.on) return;
    const seconds = (now - started) / 1e3 * pace, before = step;
    while (step < stop && seconds >= over) { step++; over += step < stop ? T.step_seconds[step] : 0; }
    if (step !== before) {
      const shown = Math.min(step, stop - 1); // a late frame may leap over the last step, and ends on it all the same
      unveil(T.step_token[shown]);
      playing.moving = true;
      place(atStep(T, shown));
      playing.moving = false;
    }
    if (step === stop) return pause();
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}
function unveil(upTo) {
  for (; playing.hidden < upTo; playing.hidden++) tokenEl(playing.hidden)?.classList.remove("ahead");
}
function pause() {
  if (!playing.on) return;
  playing.on = false;
  playButton.setAttribute("aria-pressed", "false");
  root.classList.remove("playing");
  for (const el of all(".tok.ahead")) el.classList.remove("ahead");
}
playButton.addEventListener("click", () => { if (playing.on) pause(); else if (T) play(); });
byId("v-pace").addEventListener("change", () => { if (playing.on) { pause(); play(); } });
document.addEventListener("visibilitychange", () => { if (document.hidden) pause(); });
still.addEventListener("change", pause);
