"""What each contestant is measured by, on texts held out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...probes.capture import capture
from ...probes.intervene import intervene
from ...probes.model import Model
from ..layers import moe_layers, run_expert
from ..routing import watch_routing
from .autoencoder import AutoencoderOptions, TopKAutoencoder, fit_autoencoder
from .codes import layer_codes
from .contestants import active_parameters, routes_by_sparsity
from .coverage import coverage, reconstruction
from .detection import DetectionOptions, detection_scores
from .tasks import Task
from .training import IGNORED

METRICS: dict[str, str] = {
    "loss": "next-token loss on held-out texts, nats",
    "loss_spliced": "the same with the residual stream replaced by what the code holds, nats",
    "coverage": "mean best F1 of piece properties, best threshold per property",
    "coverage_common": "the same with one common threshold",
    "coverage_board": "mean best F1 of whole-board properties, best threshold per property",
    "reconstruction": "F1 of predicting piece properties from features of high precision",
    "detection": "mean balanced accuracy of telling from nearby tokens where a feature fires",
    "l0": "features above zero per token",
    "dead": "share of features that are never above zero",
    "busiest": "load of the busiest expert of the layer, times its fair share",
    "l0_correlation": "correlation of expected and actual active neurons over tokens and experts",
    "active_parameters": "parameters a token meets",
    "parameters": "all parameters",
}
"""Metrics by name; those that do not apply are NaN."""

BATCH = 50


@torch.no_grad()
def measure(
    model: Model, task: Task, *, layer: int, through_autoencoder: bool = False, seed: int = 0
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Measure a model.

    Args:
        model: A trained model.
        task: What it was trained on.
        layer: Layer whose code is read.
        through_autoencoder: Whether the code is that of an autoencoder, which is fitted here on the
            training texts' residual stream after the layer.
        seed: Seed of the autoencoder and of detection's draws.

    Returns:
        Metrics by name (NaN where they do not apply), and arrays beside them.
    """
    found = dict.fromkeys(METRICS, float("nan"))
    arrays: dict[str, np.ndarray] = {}
    found["active_parameters"], found["parameters"] = map(float, active_parameters(model.module))
    autoencoder = _taught(model, task, layer, seed) if through_autoencoder else None
    encode = None if autoencoder is None else autoencoder.encode
    found["loss"] = _loss(model, task)
    if autoencoder is not None:
        with intervene(model, {f"layers.{layer}.resid_post": lambda x: _through(autoencoder, x)}):
            found["loss_spliced"] = _loss(model, task)
        found["active_parameters"] += sum(p.numel() for p in autoencoder.parameters())
        found["parameters"] += sum(p.numel() for p in autoencoder.parameters())
    keep = task.stops if task.name == "chess" else _far_in(task.test_rows)
    codes = _codes(model, task.test_rows, layer, keep, encode)
    found["l0"] = float((codes > 0).float().sum(1).mean())
    found["dead"] = float((codes <= 0).all(0).float().mean())
    rows = torch.arange(len(keep))[:, None].expand_as(keep)[keep]
    teaches = rows < task.n_labelling
    if task.name == "chess":
        arrays |= _board(task, codes, teaches, found)
    else:
        contexts = _contexts(task.test_rows, keep, DetectionOptions().n_back)
        options = DetectionOptions(seed=seed)
        scores = detection_scores(codes.numpy(), contexts, teaches.numpy(), options)
        found["detection"] = float(scores.mean()) if len(scores) else float("nan")
        arrays["detection_scores"] = scores
    if hasattr(model.module, "blocks"):
        arrays |= _routing(model, task, layer, found)
    return found, arrays


def _board(
    task: Task, codes: Tensor, teaches: Tensor, found: dict[str, float]
) -> dict[str, np.ndarray]:
    pieces, whole = (torch.from_numpy(part) for part in task.labels)
    covered = coverage(codes, pieces)
    found["coverage"], found["coverage_common"] = covered.per_property, covered.common
    found["coverage_board"] = coverage(codes, whole).per_property
    found["reconstruction"] = reconstruction(
        codes[teaches], pieces[teaches], codes[~teaches], pieces[~teaches]
    ).f1
    return {
        "best_f1": covered.best,
        "best_feature": covered.feature,
        "best_threshold": covered.threshold,
    }


def _routing(
    model: Model, task: Task, layer: int, found: dict[str, float]
) -> dict[str, np.ndarray]:
    """Load of the layer's experts, and how well expected sparsity tells the actual one."""
    mixture = next(m for m in moe_layers(model) if m.index == layer)
    ids = task.test_rows[:BATCH]
    real = (ids != IGNORED).flatten()
    held: list[Tensor] = []
    handle = mixture.experts.register_forward_pre_hook(
        lambda module, args: held.append(args[0].detach())
    )
    try:
        with watch_routing(model) as routing:
            model(ids.clamp(min=0), use_cache=False)
    finally:
        handle.remove()
    decided = routing[layer]
    load = torch.bincount(decided.expert_ids[real].flatten(), minlength=mixture.n_experts).float()
    found["busiest"] = float(load.max() / load.mean())
    if routes_by_sparsity(model.module):
        hidden = held[0][real]
        active = torch.stack(
            [
                (run_expert(mixture.experts, e, hidden)[0] > 0).float().sum(1)
                for e in range(mixture.n_experts)
            ],
            dim=1,
        )
        pair = torch.stack([-decided.router_logits[real].flatten(), active.flatten()])
        found["l0_correlation"] = float(torch.corrcoef(pair)[0, 1])
    return {"load": (load / load.sum()).numpy()}


def _loss(model: Model, task: Task) -> float:
    total, count = 0.0, 0
    for ids in task.test_rows.split(BATCH):
        logits = model(ids.clamp(min=0), use_cache=False).logits[:, :-1]
        targets = ids[:, 1:]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        total, count = total + float(loss), count + int((targets != IGNORED).sum())
    return total / count


def _codes(model: Model, rows: Tensor, layer: int, keep: Tensor, encode) -> Tensor:
    parts = [
        layer_codes(model, ids.clamp(min=0), layer, chosen, encode=encode)
        for ids, chosen in zip(rows.split(BATCH), keep.split(BATCH), strict=True)
    ]
    return torch.cat(parts)


def _taught(model: Model, task: Task, layer: int, seed: int) -> TopKAutoencoder:
    """An autoencoder of the residual stream after a layer, taught on training texts."""
    site, rows = f"layers.{layer}.resid_post", []
    for ids in task.train_rows[: 10 * BATCH].split(BATCH):
        with capture(model, site, stop_early=True) as acts:
            model(ids.clamp(min=0), use_cache=False)
        rows.append(acts[site][ids != IGNORED])
    with torch.enable_grad():
        options = AutoencoderOptions(n_latents=16 * model.d_model, seed=seed)
        return fit_autoencoder(torch.cat(rows), options)


def _through(autoencoder: TopKAutoencoder, resid: Tensor) -> Tensor:
    return autoencoder(resid.flatten(0, -2)).view_as(resid)


def _far_in(rows: Tensor) -> Tensor:
    """Tokens with enough others before them to make a context."""
    keep = rows != IGNORED
    keep[:, : DetectionOptions().n_back] = False
    return keep


def _contexts(rows: Tensor, keep: Tensor, n_back: int) -> np.ndarray:
    """The kept tokens and those before each, nearest first."""
    shifted = [rows.roll(back, dims=1)[keep] for back in range(n_back)]
    return torch.stack(shifted, dim=1).numpy()
