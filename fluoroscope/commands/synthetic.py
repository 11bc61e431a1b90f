"""`fluoroscope sae synthetic|modality`: benchmarks whose truth is known, as one command each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from ..running import Terminal

Output = Annotated[
    Path, typer.Option("--output", "-o", help="Run file that takes the result (made if new).")
]
Protocol = Annotated[
    Literal["tree", "absorption"],
    typer.Option(help="tree: correlation within levels; absorption: weak children (Table 1)."),
]
Names = Annotated[
    list[str] | None,
    typer.Option("--architecture", "-a", help="Which (repeatable); left out: all."),
]
Seeds = Annotated[int, typer.Option(min=1, help="Trainings of each.")]
Steps = Annotated[int, typer.Option(min=100, help="Steps of a training; the paper takes 15,000.")]
Rhos = Annotated[
    list[float] | None,
    typer.Option("--rho", help="Cosines within a level (repeatable); left out: 0, 0.3, 0.6."),
]
ChildMeans = Annotated[
    list[float] | None,
    typer.Option("--child-mean", help="Values of children (repeatable); left out: 0.1, 0.5, 1."),
]
Plot = Annotated[
    Path | None, typer.Option(help="Picture of absorption by architecture: .svg, .png or .pdf.")
]
ModalitySteps = Annotated[int, typer.Option(min=50, help="Steps of the dictionaries' training.")]
TowerSteps = Annotated[int, typer.Option(min=50, help="Steps of the image-text model's training.")]


def synthetic(
    terminal: Terminal,
    *,
    output: Output = Path("synthetic.h5"),
    protocol: Protocol = "tree",
    architecture: Names = None,
    seeds: Seeds = 3,
    steps: Steps = 5000,
    rho: Rhos = None,
    child_mean: ChildMeans = None,
    plot: Plot = None,
) -> dict[str, Any]:
    """Which architecture finds known hierarchical features (arXiv 2506.03093)?

    Every finished training is kept in the run file; the same command picks up there.

    Example: fluoroscope sae synthetic -o synthetic.h5

    Example: fluoroscope sae synthetic --protocol absorption -a mp -a relu --seeds 15
    """
    from ..sae.synthetic.study import (
        CHILD_MEANS,
        RHOS,
        SyntheticStudy,
        absorption_study,
        as_result,
        tree_study,
    )

    run = _run(output, "twenty known features, synthetic")
    name = "sae_synthetic" if protocol == "tree" else "sae_absorption"
    done = run.result(name, SyntheticStudy).cells if name in run.results else []
    common: dict[str, Any] = {
        "architectures": architecture,
        "seeds": range(seeds),
        "n_steps": steps,
        "done": done,
        "on_cell": lambda cells: run.add_result(name, as_result(cells, protocol)),
    }
    with terminal.track("Training", "steps") as progress:
        if protocol == "tree":
            found = tree_study(rhos=rho or RHOS, progress=progress, **common)
        else:
            found = absorption_study(
                child_means=child_mean or CHILD_MEANS, progress=progress, **common
            )
    terminal.wrote(output)
    at = "rho" if protocol == "tree" else "child_mean"
    table = Table(
        "architecture", at.replace("_", " "), "matched cosine", "absorption", "cross-level error",
        "children found", "L0", "FVU",
    )  # fmt: skip
    rows = _means(found, at)
    for row in rows:
        table.add_row(
            row["architecture"], f"{row[at]:g}", f"{row['matched_cosine']:.3f}",
            f"{row['absorption']:.3f}", f"{row['hierarchical_mse']:.4f}",
            f"{row['children_found']:.0%}", f"{row['l0']:.2f}", f"{row['fvu']:.4f}",
        )  # fmt: skip
    terminal.show(table)
    if plot is not None:
        _draw(output, name, plot)
        terminal.wrote(plot)
    return {"result": name, "trainings": len(found.seed), "means": rows}


def modality(
    terminal: Terminal,
    *,
    output: Output = Path("modality.h5"),
    steps: ModalitySteps = 3000,
    tower_steps: TowerSteps = 1500,
) -> dict[str, Any]:
    """What dictionaries find in a space that pictures and captions share.

    The space is trained here, from scikit-learn's digits and captions made from measurements.

    Example: fluoroscope sae modality -o modality.h5

    Example: fluoroscope sae modality --steps 10000 --tower-steps 3000
    """
    from ..sae.joint.captions import captioned_digits
    from ..sae.joint.study import JointOptions, joint_study
    from ..sae.joint.towers import TowerOptions, train_towers

    run = _run(output, "digit pictures and captions")
    data = captioned_digits()
    with terminal.track("Image-text model", "steps") as progress:
        space = train_towers(data, TowerOptions(n_steps=tower_steps), progress=progress)
    with terminal.track("Dictionaries", "steps") as progress:
        found = joint_study(data, space, options=JointOptions(n_steps=steps), progress=progress)
    run.add_result("sae_joint", found)
    terminal.wrote(output)
    table = Table("architecture", "L0", "FVU", "one-sided", "their energy", "agreement", "chance")
    for i, name in enumerate(found.architecture):
        table.add_row(
            str(name), f"{found.l0[i]:.1f}", f"{found.fvu[i]:.3f}", f"{found.one_sided[i]:.0%}",
            f"{found.one_sided_energy[i]:.0%}", f"{found.agreement[i]:.2f}", f"{found.chance[i]:.2f}",
        )  # fmt: skip
    terminal.show(table)
    return {
        "result": "sae_joint",
        "retrieval": found.retrieval,
        "gap": found.gap,
        "architectures": found.architecture.tolist(),
        "l0": found.l0.tolist(),
        "fvu": found.fvu.tolist(),
        "one_sided": found.one_sided.tolist(),
        "one_sided_energy": found.one_sided_energy.tolist(),
        "agreement": found.agreement.tolist(),
    }


def _run(path: Path, description: str) -> Any:
    """The run file at `path`, or a new one without a model."""
    from ..probes import Provenance, create_run, open_run

    if not path.exists():
        provenance = Provenance(
            model={"name": "no model: " + description}, corpus={"description": description}
        )
        with create_run(path, provenance=provenance) as writer:
            writer.close()
    return open_run(path)


def _means(found: Any, at: str) -> list[dict[str, Any]]:
    """Mean over seeds of every measure, per architecture and setting."""
    import numpy as np

    measures = (
        "matched_cosine", "absorption", "flat_mse", "hierarchical_mse", "children_found", "l0", "fvu",
        "f1", "seconds",
    )  # fmt: skip
    where = getattr(found, at)
    rows = []
    for setting in np.unique(where):
        for name in dict.fromkeys(found.architecture.tolist()):
            cell = (found.architecture == name) & (where == setting)
            if cell.any():
                means = {key: float(getattr(found, key)[cell].mean()) for key in measures}
                rows.append({"architecture": name, at: float(setting)} | means)
    return rows


def _draw(run: Path, name: str, path: Path) -> None:
    """The figure of absorption, as the report draws it."""
    from ..probes import open_run
    from ..probes.runfile.h5 import subgroup
    from ..reports.section import read_stored
    from ..reports.sections.synthetic import absorption_figure

    with open_run(run).reading() as file:
        stored = read_stored(name, subgroup(file, f"results/{name}"))
    absorption_figure(stored).save(path)
