"""The comparison of MoE-X with its rivals: trained, measured, put in one table; resumable throughout.

Checked against arXiv 2503.07639: MoE-X above Switch above dense in coverage and reconstruction, with
routing and ReLU ablated one by one. Our models are far smaller and trained far shorter; what is
measured is reported whether or not the order appears. Intervals are Student's over seeds; differences
are paired by seed, whose models see the same batches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from transformers import AutoModelForCausalLM, PreTrainedModel

from ...probes.errors import OptionError, RunMismatchError
from ...probes.gguf import without_progress_bars
from ...probes.model import Model
from ...probes.open import choose_device, wrap_model
from ...probes.results import Result, described
from .contestants import MAIN, Contestant, Sizes, build, contestant, mixture_config
from .measuring import METRICS, measure
from .tasks import Task
from .training import TrainOptions, train
from .upcycle import UpcycleOptions, upcycle

Progress = Callable[[int, int, str], None]

LEVEL = 0.95
CHAMPION = "moex"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonOptions:
    """What is compared, how large, how long."""

    contestants: tuple[str, ...] = MAIN
    """Slugs; dense models that others start from are trained whether or not they are listed."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training of each per seed."""
    sizes: Sizes = field(default_factory=Sizes)
    """Sizes all share."""
    training: TrainOptions = field(default_factory=TrainOptions)
    """Schedule all share; its seed is replaced by each of the seeds."""
    layer: int | None = None
    """Layer whose code is measured; None for the last."""
    noise: float = 0.1
    """Noise on upcycled encoders, beside each expert's own random half of the neurons."""

    def __post_init__(self) -> None:
        for slug in self.contestants:
            contestant(slug)
        if not self.contestants or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise OptionError("Give at least one contestant and at least one seed, none twice.")
        if self.layer is not None and not 0 <= self.layer < self.sizes.n_layers:
            raise OptionError(
                f"layer must be from 0 to {self.sizes.n_layers - 1}, got {self.layer}."
            )


@dataclass(frozen=True, kw_only=True)
class MoexComparison(Result):
    """MoE-X and its rivals on one task."""

    kind: ClassVar[str] = "moex_comparison"
    task: str = described("chess or text")
    corpus: str = described("what was read")
    contestants: np.ndarray = described("models", axes=("contestants",))
    seeds: np.ndarray = described("seeds", axes=("seeds",))
    metrics: np.ndarray = described("names of what was measured", axes=("metrics",))
    meanings: np.ndarray = described("what each metric is", axes=("metrics",))
    values: np.ndarray = described(
        "each measurement; NaN where it does not apply", axes=("metrics", "contestants", "seeds")
    )
    mean: np.ndarray = described("mean over seeds", axes=("metrics", "contestants"))
    low: np.ndarray = described(
        "lower 95 % bound over seeds (Student's t); NaN for one seed",
        axes=("metrics", "contestants"),
    )
    high: np.ndarray = described("upper bound", axes=("metrics", "contestants"))
    champion: int = described("row of MoE-X among the contestants; -1 where it was not trained")
    ahead: np.ndarray = described(
        "MoE-X minus the other, mean over seeds", axes=("metrics", "contestants")
    )
    ahead_low: np.ndarray = described(
        "lower 95 % bound, paired by seed", axes=("metrics", "contestants")
    )
    ahead_high: np.ndarray = described("upper bound", axes=("metrics", "contestants"))
    load: np.ndarray = described(  # type: ignore[assignment]  # the class's `load` stays
        "share of the load each expert of the layer takes, first seed; NaN where there is none",
        axes=("contestants", "experts"),
    )
    best_f1: np.ndarray = described(
        "chess: best F1 of each piece property, first seed", axes=("contestants", "properties")
    )
    best_feature: np.ndarray = described(
        "chess: feature that reaches it (expert * neurons + neuron)",
        axes=("contestants", "properties"),
    )
    layer: int = described("layer whose code was measured")
    n_steps: int = described("optimiser steps of every model")
    n_tokens: int = described("tokens every model was trained on, padding left out")
    settings: dict = described("all options")

    def of(self, metric: str) -> Float[np.ndarray, " contestants"]:
        """Mean over seeds of one metric."""
        return self.mean[self.metrics.tolist().index(metric)]


def compare(
    task: Task,
    options: ComparisonOptions | None = None,
    *,
    work: str | Path,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> MoexComparison:
    """Train and measure every contestant for every seed.

    Args:
        task: Chess or text.
        options: What, how large, how long.
        work: Folder for models, checkpoints and measurements; with the same options the comparison
            goes on from it. `work/SLUG-SEED/model` loads with from_pretrained.
        device: Where models are trained; None for a GPU if there is one. They are measured on the CPU.
        progress: Called while models train, with optimiser steps done and planned.

    Raises:
        RunMismatchError: The folder holds a comparison with other options.
    """
    options = options or ComparisonOptions()
    work = Path(work)
    _bind(work, task, options)
    bench = _Bench(task, options, work, choose_device(device), progress)
    measured = [
        [bench.measured(contestant(slug), seed) for seed in options.seeds]
        for slug in options.contestants
    ]
    return _tabulate(task, options, measured)


class _Bench:
    """Trains what is asked for, once, and keeps it in the working folder."""

    def __init__(
        self,
        task: Task,
        options: ComparisonOptions,
        work: Path,
        device: torch.device,
        progress: Progress | None,
    ) -> None:
        self.task, self.options, self.work = task, options, work
        self._device, self._progress = device, progress
        self.half = options.training.steps // 2
        self._done = 0
        self._planned = self._steps() * len(options.seeds)

    def _steps(self) -> int:
        """Optimiser steps of one seed: first halves are shared by all that start from them."""
        chosen = [contestant(slug) for slug in self.options.contestants]
        dense = {c.slug for c in chosen if c.routing == "dense"} | {c.upcycled_from for c in chosen}
        first = sum(not contestant(slug).read_through_autoencoder for slug in dense - {""})
        whole = {c.upcycled_from for c in chosen if c.read_through_autoencoder}
        whole |= {c.slug for c in chosen if c.trained and not c.read_through_autoencoder}
        scratch = sum(c.trained and not c.upcycled_from and c.routing != "dense" for c in chosen)
        rest = self.options.training.steps - self.half
        return (first + scratch) * self.half + len(whole) * rest

    def measured(self, of: Contestant, seed: int) -> dict[str, Any]:
        """Metrics and arrays of one contestant, read from the folder where they are there."""
        file = self._folder(of.slug, seed) / "measured.json"
        if not file.exists():
            model = self.trained(of, seed)
            layer = self.options.layer
            metrics, arrays = measure(
                model, self.task, through_autoencoder=of.read_through_autoencoder, seed=seed,
                layer=self.options.sizes.n_layers - 1 if layer is None else layer,
            )  # fmt: skip
            held = {"metrics": metrics, "arrays": {k: v.tolist() for k, v in arrays.items()}}
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            part.write_text(json.dumps(held))
            part.replace(file)
        return json.loads(file.read_text())

    def trained(self, of: Contestant, seed: int) -> Model:
        """The contestant's model after the whole schedule."""
        if of.read_through_autoencoder:
            return self.trained(contestant(of.upcycled_from), seed)
        folder = self._folder(of.slug, seed)
        if not (folder / "model" / "config.json").exists():
            if of.routing != "dense" and not of.upcycled_from:
                module = build(of, self.options.sizes, self.task.d_vocab, seed=seed)
                if of.trained:
                    self._train(module, folder / "all.pt", seed, 0, None)
            else:
                module = self._second_half_of(of, seed)
                self._train(module, folder / "second.pt", seed, self.half, None)
            self._keep(module, folder / "model")
        return wrap_model(_loaded(folder / "model"), self.task.tokenizer, name=of.name)

    def _second_half_of(self, of: Contestant, seed: int) -> PreTrainedModel:
        """What the second half of the schedule begins with."""
        if of.routing == "dense":
            return self._half_dense(of, seed)
        dense = self._half_dense(contestant(of.upcycled_from), seed)
        config = mixture_config(of, self.options.sizes, self.task.d_vocab)
        made = UpcycleOptions(noise=self.options.noise, seed=seed)
        return upcycle(dense, config, made)  # type: ignore[arg-type]

    def _half_dense(self, of: Contestant, seed: int) -> PreTrainedModel:
        folder = self._folder(of.slug, seed)
        if not (folder / "half" / "config.json").exists():
            module = build(of, self.options.sizes, self.task.d_vocab, seed=seed)
            self._train(module, folder / "first.pt", seed, 0, self.half)
            self._keep(module, folder / "half")
        return _loaded(folder / "half")

    def _train(
        self, module: PreTrainedModel, checkpoint: Path, seed: int, first: int, last: int | None
    ) -> None:
        before = self._done

        def told(done: int, total: int, note: str) -> None:
            self._done = before + done
            if self._progress is not None:
                name = f"{checkpoint.parent.name}, {note}"
                self._progress(self._done, max(self._planned, self._done), name)

        module.to(self._device)  # type: ignore[arg-type]
        train(
            module, self.task.train_rows, replace(self.options.training, seed=seed),
            first=first, last=last, checkpoint=checkpoint, progress=told,
        )  # fmt: skip
        module.to("cpu")  # type: ignore[arg-type]

    def _keep(self, module: PreTrainedModel, folder: Path) -> None:
        part = folder.with_name(folder.name + ".part")
        with without_progress_bars():
            module.save_pretrained(part)
        self.task.tokenizer.save_pretrained(part)
        part.replace(folder)
        for checkpoint in folder.parent.glob("*.pt"):
            checkpoint.unlink()

    def _folder(self, slug: str, seed: int) -> Path:
        return self.work / f"{slug}-{seed}"


def _loaded(folder: Path) -> PreTrainedModel:
    with without_progress_bars():
        return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def _bind(work: Path, task: Task, options: ComparisonOptions) -> None:
    """Remember what the folder is for; refuse it for anything else."""
    settings = _settings(task, options)
    settings.pop("seeds")
    settings.pop("contestants")  # more of either may be added later
    file = work / "settings.json"
    if file.exists() and (held := json.loads(file.read_text())) != settings:
        differ = sorted(key for key in settings if held.get(key) != settings[key])
        raise RunMismatchError(
            f"{work.name} holds a comparison with other {', '.join(differ)}; give another folder "
            "(--work), or the same options."
        )
    work.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings, indent=1))


def _settings(task: Task, options: ComparisonOptions) -> dict[str, Any]:
    settings = asdict(options)
    settings["training"].pop("seed")
    settings["training"].pop("keep_every")
    found = {**settings, "task": task.name, "corpus": task.description, "d_vocab": task.d_vocab}
    return json.loads(json.dumps(found))


def _tabulate(
    task: Task, options: ComparisonOptions, measured: Sequence[Sequence[dict[str, Any]]]
) -> MoexComparison:
    values = np.array([
        [[row["metrics"][metric] for row in rows] for rows in measured] for metric in METRICS
    ])
    champion = options.contestants.index(CHAMPION) if CHAMPION in options.contestants else -1
    differences = values[:, [champion]] - values if champion >= 0 else np.full(values.shape, np.nan)
    mean, low, high = student(values)
    ahead, ahead_low, ahead_high = student(differences)
    sizes = options.sizes
    rows = task.train_rows[: options.training.n_rows * options.training.steps]
    epochs = options.training.n_rows * options.training.steps / max(len(rows), 1)
    return MoexComparison(
        task=task.name,
        corpus=task.description,
        contestants=np.array([contestant(slug).name for slug in options.contestants]),
        seeds=np.array(options.seeds, dtype=np.int64),
        metrics=np.array(list(METRICS)),
        meanings=np.array(list(METRICS.values())),
        values=values,
        mean=mean,
        low=low,
        high=high,
        champion=champion,
        ahead=ahead,
        ahead_low=ahead_low,
        ahead_high=ahead_high,
        load=_table(measured, "load"),
        best_f1=_table(measured, "best_f1"),
        best_feature=_table(measured, "best_feature"),
        layer=sizes.n_layers - 1 if options.layer is None else options.layer,
        n_steps=options.training.steps,
        n_tokens=round(int((rows >= 0).sum()) * epochs),
        settings=_settings(task, options),
    )


def student(
    values: Float[np.ndarray, "... seeds"], level: float = LEVEL
) -> tuple[Float[np.ndarray, ...], Float[np.ndarray, ...], Float[np.ndarray, ...]]:
    """Mean over seeds and Student's interval; the bounds are NaN for a single seed."""
    n = values.shape[-1]
    mean = values.mean(-1)
    if n < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = stats.t.ppf((1 + level) / 2, n - 1) * values.std(-1, ddof=1) / n**0.5
    return mean, mean - half, mean + half


def _table(measured: Sequence[Sequence[dict[str, Any]]], name: str) -> np.ndarray:
    """An array of the first seed's, one row per contestant, padded with NaN."""
    rows = [np.array(row[0]["arrays"].get(name, []), dtype=float) for row in measured]
    table = np.full((len(rows), max(len(row) for row in rows)), np.nan)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table
