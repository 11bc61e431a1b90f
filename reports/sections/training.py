"""How a dictionary learned."""

from __future__ import annotations

from ..charts import as_rows, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..tokens import label


def sae_training(stored: Stored, context: Context) -> Section:
    """Section of the result kind `sae_training`."""
    values = stored.values
    n = f"{values['n_steps']:,} steps, {values['n_rows']:,} rows; training batches, not held out"
    steps = stored.step.tolist()
    unexplained = Figure(
        id=f"{stored.name}-fvu",
        question="Has it settled?",
        reading=f"Over the last tenth {values['final_fvu']:.1%} of the variance is unexplained by "
        f"{values['final_l0']:.1f} latents a row; {values['final_dead']:.1%} of the latents are dead.",
        chart=lines(as_rows(step=steps, FVU=stored.fvu), x="step", y="FVU"),
        data={
            "step": steps,
            "FVU": stored.fvu.tolist(),
            "L0": stored.l0.tolist(),
            "dead": stored.dead.tolist(),
            "loss": stored.loss.tolist(),
            "learning rate": stored.learning_rate.tolist(),
        },
        n=n,
        source=f"{stored.source}/fvu",
    )
    active = Figure(
        id=f"{stored.name}-l0",
        question="How many latents does a row take?",
        reading=f"{values['final_l0']:.1f} at the end.",
        chart=lines(as_rows(step=steps, L0=stored.l0), x="step", y="L0"),
        data={"step": steps, "L0": stored.l0.tolist()},
        n=n,
        source=f"{stored.source}/l0",
    )
    name, site = label(str(values["name"])), label(str(values["site"]), longest=60)
    return Section(
        id=stored.name,
        title=f"Training of {name}",
        chapter="Features",
        intro=f"Architecture {label(str(values['architecture']))}, site {site}, "
        f"{values['rows_per_s']:,.0f} rows/s for all dictionaries of the training together.",
        figures=(unexplained, active),
    )
