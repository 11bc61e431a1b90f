"""A whole training: rows examined, autoencoders made, trained in one pass, checkpointed, written.

    spec = SaeSpec(name="a", architecture="topk", site=site, options={"d_sae": 4096}, learning=...)
    trained = train_saes(RunRows(run, [site], batch_rows=4096), [spec], folder=folder)

Everything that can be wrong with rows or options is found before the first step. A crash costs what
came after the last checkpoint; the same call goes on from there, bit for bit. In several processes
(torchrun) gradients are averaged, the first process writes.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ..probes.errors import OptionError
from .architectures import make_sae
from .base import SparseAutoencoder
from .checkpoint import NAME, read_checkpoint, write_checkpoint
from .learner import LearnOptions, StepReport
from .result import SaeTraining
from .scaling import ScaleMode, SiteRows, check_finite, examine
from .sources import RowSource
from .train import Member, Progress, Trainer


@dataclass(frozen=True, kw_only=True)
class SaeSpec:
    """One autoencoder that is to be trained."""

    name: str
    """Its name: folder, result, progress."""
    architecture: str
    """One of `ARCHITECTURES`."""
    site: str
    """Site it reads."""
    options: dict[str, Any]
    """Options of the architecture without `d_in` and `d_out`, which the site gives."""
    learning: LearnOptions
    """How it learns."""
    target_site: str | None = None
    """Site it rebuilds, for a transcoder; None: the one it reads."""
    scale: ScaleMode = "unit_ms"
    """How rows are scaled while training."""
    seed: int = 0
    """Fixes the initial weights."""


@dataclass(frozen=True)
class Trained:
    """An autoencoder that reads raw rows, and how it came about."""

    sae: SparseAutoencoder
    result: SaeTraining
    folder: Path | None = field(default=None)
    """Where it was written."""


def train_saes(
    source: RowSource,
    specs: Sequence[SaeSpec],
    *,
    folder: str | Path | None = None,
    checkpoint_every: int = 500,
    max_norm_ratio: float | None = 10.0,
    report_every: int = 25,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> dict[str, Trained]:
    """Train autoencoders on the same batches.

    Args:
        source: Where rows come from.
        specs: What is trained; all for the same number of steps.
        folder: Takes the autoencoders, one folder each, and checkpoints; None: nothing is written.
        checkpoint_every: Steps between checkpoints.
        max_norm_ratio: Rows longer than this many medians are left out; None: none.
        report_every: Steps between entries of the curves.
        device: Where to train; None: the CPU.
        progress: Called after every step.

    Raises:
        OptionError: Options contradict each other or a name stands twice.
        ActivationsError: A site cannot be trained on.
        CheckpointError: The folder holds another training.
        DivergedError: A loss is not finite.
    """
    names = [spec.name for spec in specs]
    if not specs or len(set(names)) < len(names) or checkpoint_every < 1:
        raise OptionError(
            "specs must have names of their own and checkpoint_every be at least 1, got "
            f"{names}, {checkpoint_every}."
        )
    sample = source.sample()
    sites = _examined(source, specs, sample, max_norm_ratio)
    saes = {spec.name: _made(spec, sites, sample, device) for spec in specs}
    trainer = Trainer(
        {s.name: Member(saes[s.name], s.learning, s.site, s.target_site) for s in specs},
        report_every=report_every,
    )
    session = _Session(source, specs, sites, trainer, folder, checkpoint_every)
    seconds = session.run(progress)
    return {spec.name: session.finish(spec, seconds) for spec in specs}


class _Session:
    def __init__(
        self, source: RowSource, specs: Sequence[SaeSpec], sites: dict[str, SiteRows],
        trainer: Trainer, folder: str | Path | None, checkpoint_every: int,
    ) -> None:  # fmt: skip
        self._source, self._specs, self._sites = source, specs, sites
        self._trainer, self._every = trainer, checkpoint_every
        self._folder = None if folder is None else Path(folder)
        self._settings = {
            "source": source.describe(),
            "report_every": trainer.report_every,
            "n_processes": dist.get_world_size() if _together() else 1,
            "specs": {spec.name: dataclasses.asdict(spec) for spec in specs},
            "sites": {name: dataclasses.asdict(rows) for name, rows in sites.items()},
        }

    def run(self, progress: Progress | None) -> float:
        """Train to the end; seconds of this call's steps, scaled to all."""
        trainer, began = self._trainer, self._resume()
        started = time.perf_counter()
        if trainer.step_count < trainer.n_steps:
            for batch in self._source.batches(trainer.step_count):
                self._step(batch)
                if progress is not None:
                    progress(trainer.step_count, trainer.n_steps, trainer.note())
                if trainer.step_count % self._every == 0 or trainer.step_count == trainer.n_steps:
                    self._checkpoint()
                if trainer.step_count >= trainer.n_steps:
                    break
        done = trainer.step_count - began
        seconds = time.perf_counter() - started
        return seconds * trainer.n_steps / done if done else math.nan

    def finish(self, spec: SaeSpec, seconds: float) -> Trained:
        """Fold the scale, and write."""
        learner = self._trainer.learners[spec.name]
        scale, other = self._scales(spec)
        sae = learner.sae.eval()
        if sae.options.input_norm == "none" and (scale, other) != (1.0, 1.0):
            sae.fold_input_scale(scale, other)
        result = _result(
            spec, sae, self._trainer.reports[spec.name], learner.n_rows, seconds, scale,
            self._sites[spec.site].norm_limit, self._source.describe(),
        )  # fmt: skip
        sae.metadata = {
            "name": spec.name,
            "site": spec.site,
            "target_site": spec.target_site,
            "source": self._source.describe(),
            "scale": scale,
            "n_steps": learner.step_count,
            "n_rows": learner.n_rows,
            "seed": spec.seed,
            "learning": result.learning,
            "final_fvu": result.final_fvu,
            "final_l0": result.final_l0,
        }
        if self._folder is None or not _is_first():
            return Trained(sae, result)
        return Trained(sae, result, sae.save(self._folder / spec.name))

    def _step(self, batch: dict[str, Tensor]) -> None:
        """Leave out rows too long at any site, scale, and learn."""
        for site in self._sites:
            check_finite(site, batch[site].float())
        kept = torch.stack([self._sites[s].kept(batch[s].float()) for s in self._sites]).all(0)
        everything = bool(kept.all())
        rows = {s: batch[s].float() if everything else batch[s].float()[kept] for s in self._sites}
        for spec in self._specs:
            scale, other = self._scales(spec)
            target = None if spec.target_site is None else rows[spec.target_site] * other
            self._trainer.step_member(spec.name, rows[spec.site] * scale, target)
        self._trainer.step_count += 1

    def _scales(self, spec: SaeSpec) -> tuple[float, float]:
        own = self._sites[spec.site].scale(spec.scale)
        return own, own if spec.target_site is None else self._sites[spec.target_site].scale(
            spec.scale
        )

    def _resume(self) -> int:
        if self._folder is None:
            return 0
        state = read_checkpoint(self._folder, self._settings)
        if state is None:
            return 0
        self._trainer.load_state_dict(state["trainer"])
        self._source.load_state_dict(state["sources"][dist.get_rank() if _together() else 0])
        return self._trainer.step_count

    def _checkpoint(self) -> None:
        """Keep what is trained so far.

        Losses are looked at every so many steps: weights may have left the finite numbers since.
        """
        for learner in self._trainer.learners.values():
            learner.require_finite()
        if self._folder is None:
            return
        sources = _of_all(self._source.state_dict())
        if _is_first():
            state = {"trainer": self._trainer.state_dict(), "sources": sources}
            write_checkpoint(self._folder, self._settings, state)


def forget_checkpoint(folder: str | Path) -> None:
    """Delete a finished training's checkpoint, which is several times the size of what it made."""
    (Path(folder) / NAME).unlink(missing_ok=True)


def _examined(
    source: RowSource, specs: Sequence[SaeSpec], sample: dict[str, Tensor], ratio: float | None
) -> dict[str, SiteRows]:
    needed: dict[str, int] = {}
    for spec in specs:
        for site in (spec.site, spec.target_site):
            if site is None:
                continue
            if site not in sample:
                raise OptionError(f"The source gives {', '.join(source.sites)}, not {site!r}.")
            needed[site] = max(needed.get(site, 0), int(spec.options["d_sae"]))
    return {
        site: examine(site, sample[site], n_rows=source.n_rows, d_sae=d_sae, max_norm_ratio=ratio)
        for site, d_sae in needed.items()
    }


def _made(
    spec: SaeSpec, sites: dict[str, SiteRows], sample: dict[str, Tensor],
    device: torch.device | str | None,
) -> SparseAutoencoder:  # fmt: skip
    options = dict(spec.options) | {"d_in": sites[spec.site].width}
    if spec.target_site is not None:
        options |= {"d_out": sites[spec.target_site].width, "apply_b_dec_to_input": False}
    sae = make_sae(spec.architecture, seed=spec.seed, **options)
    goal = sites[spec.target_site or spec.site]
    rows = sample[goal.site].float()
    scaled = rows[goal.kept(rows)] * goal.scale(spec.scale)
    sae.initialise(scaled)
    return sae.to(device)


def _result(
    spec: SaeSpec, sae: SparseAutoencoder, reports: list[StepReport], n_rows: int,
    seconds: float, scale: float, norm_limit: float, source: dict[str, Any],
) -> SaeTraining:  # fmt: skip
    last = reports[-max(len(reports) // 10, 1) :]

    def curve(name: str) -> np.ndarray:
        return np.array([getattr(report, name) for report in reports], dtype=np.float64)

    return SaeTraining(
        name=spec.name, architecture=spec.architecture, site=spec.site,
        target_site=spec.target_site, options=sae.describe(),
        learning=dataclasses.asdict(spec.learning), source=source, scale=scale,
        norm_limit=norm_limit, seed=spec.seed, n_steps=reports[-1].step, n_rows=n_rows,
        rows_per_s=n_rows / seconds, step=curve("step"), loss=curve("loss"), fvu=curve("fvu"),
        l0=curve("l0"), dead=curve("dead"), learning_rate=curve("learning_rate"),
        final_fvu=float(np.mean([report.fvu for report in last])),
        final_l0=float(np.mean([report.l0 for report in last])), final_dead=reports[-1].dead,
    )  # fmt: skip


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def _is_first() -> bool:
    return not _together() or dist.get_rank() == 0


def _of_all(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of all processes' sources, for the first; each has rows of its own."""
    if not _together():
        return [state]
    found: list[Any] = [{}] * dist.get_world_size()
    dist.gather_object(state, found if _is_first() else None)
    return found
