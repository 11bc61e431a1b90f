"""Can a model read several continuations at once? Asked of the model itself, once.

Masks and positions of a branching draft mean what they should in most attention models, but not in
those that take positions from the cache, bias scores by distance in it, or chunk it. Instead of a list
of architectures, a tiny tree is compared with its paths read one by one.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..probes import Model
from .errors import RollBackError
from .target import Target

_faults: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()

TOLERANCE = {torch.float64: 1e-7, torch.float32: 2e-3, torch.bfloat16: 0.15, torch.float16: 0.05}
"""Largest difference of logits allowed, relative to the largest logit's distance from their mean."""


def branching_fault(model: Model) -> str | None:
    """Why the model cannot read branching drafts; None if it can.

    The check runs once per module, on a few tokens, and is remembered.
    """
    if model.module not in _faults:
        _faults[model.module] = _compare(model)
    return _faults[model.module]


@torch.inference_mode()
def _compare(model: Model) -> str | None:
    size = model.d_vocab
    text, a, b, c, d = [3 % size, 5 % size, 8 % size, 6 % size], 7 % size, 11 % size, 4 % size, 9
    try:
        tree, path_b, path_c, after = _tree(model, text, (a, b, c, d % size))
    except RollBackError as error:
        return str(error)
    except (ValueError, RuntimeError, TypeError) as error:
        return f"{model.name} refuses a mask of four axes: {error}"
    scale = float((path_b - path_b.mean(-1, keepdim=True)).abs().max())
    worst = max(_gap(tree[[0, 1, 3]], path_b), _gap(tree[[0, 2]], path_c), _gap(after[0], after[1]))
    if worst <= TOLERANCE.get(model.dtype, 2e-3) * scale:
        return None
    return (
        f"{model.name} ({model.config.model_type}) gives other logits for a branching draft than for "
        f"its paths read one by one (difference {worst:.2g}, logits span {scale:.2g}). Engines that "
        "draft a single chain, such as 'prompt-lookup', and 'plain' work."
    )


def _tree(model: Model, text: list[int], tokens: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Logits of a tree a -> (b -> d, c), of its two paths, and of what follows a, c."""
    a, b, c, d = tokens

    def read(more: list[int]) -> Tensor:
        target = Target(model, rolls_back=True)
        target.prefill(torch.tensor(text))
        return target.extend(more)

    target = Target(model, rolls_back=True)
    target.prefill(torch.tensor(text))
    tree = target.feed([a, b, c, d], [-1, 0, 0, 1])
    target.commit([0, 2])
    after = torch.stack([target.extend([d])[-1], read([a, c, d])[-1]])
    return tree, read([a, b, d]), read([a, c]), after


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())
