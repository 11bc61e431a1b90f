"""Sites of an architecture that no table lists, found from its structure.

One short forward pass records what enters and leaves every module of a decoder layer. The layers are
the longest list of modules whose outputs chain; inside a layer, a site's module is the one whose
value satisfies the site's identity numerically (what attention adds is what turns the stream before
into the stream in the middle). Whatever cannot be found is no site; the self-check then judges all.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .errors import UnsupportedArchitectureError
from .families.family import Family, Place
from .ports import tensor_argument

N_TOKENS = 5


@dataclass
class _Seen:
    """What passed one module."""

    entered: Tensor | None = None
    left: Tensor | None = None


@torch.no_grad()
def discover_family(module: PreTrainedModel) -> Family:
    """A table for `module`, from its structure.

    Raises:
        UnsupportedArchitectureError: The module is no decoder of stacked residual blocks.
    """
    seen, logits = _run(module)
    layers_path, layers = _layers(module, seen)
    norm_path = _final_norm(module, seen, layers, logits)
    places = _places(layers[0], seen)
    return Family(
        name=f"{module.config.model_type} (from its structure)",
        model_types=(module.config.model_type,),
        layers=layers_path,
        embed=_path_of(module, module.get_input_embeddings()),
        final_norm=norm_path,
        attention=_attention_path(layers[0]),
        places=places,
    )


def _run(module: PreTrainedModel) -> tuple[dict[nn.Module, _Seen], Tensor]:
    seen: dict[nn.Module, _Seen] = {}
    handles = []

    def enter(part: nn.Module, args: tuple, kwargs: dict) -> None:  # type: ignore[type-arg]
        name = None if args else next((k for k in kwargs if isinstance(kwargs[k], Tensor)), None)
        value = args[0] if args else (kwargs[tensor_argument(kwargs)] if name else None)
        if isinstance(value, Tensor):
            seen.setdefault(part, _Seen()).entered = value.clone()

    def leave(part: nn.Module, args: tuple, output: object) -> None:  # type: ignore[type-arg]
        value = output[0] if isinstance(output, tuple) else output
        if isinstance(value, Tensor):
            seen.setdefault(part, _Seen()).left = value.clone()

    for part in module.modules():
        handles.append(part.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(part.register_forward_hook(leave))
    try:
        n_vocab = module.config.get_text_config().vocab_size
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, n_vocab, (1, N_TOKENS), generator=generator).to(module.device)
        logits = module(ids, use_cache=False).logits
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise _unsupported(module, f"a plain forward pass fails ({error})") from error
    finally:
        for handle in handles:
            handle.remove()
    return seen, logits


def _layers(module: PreTrainedModel, seen: dict[nn.Module, _Seen]) -> tuple[str, nn.ModuleList]:
    found = [
        (path, part)
        for path, part in module.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) and _chains(part, seen)
    ]
    if not found:
        raise _unsupported(
            module, "no list of modules passes a residual stream from one to the next"
        )
    return max(found, key=lambda pair: len(pair[1]))


def _chains(layers: nn.ModuleList, seen: dict[nn.Module, _Seen]) -> bool:
    passed = [seen.get(layer, _Seen()) for layer in layers]
    if any(s.entered is None or s.left is None or s.left.ndim != 3 for s in passed):
        return False
    return all(_equal(a.left, b.entered) for a, b in pairwise(passed)) and all(
        s.entered is not None and s.left is not None and s.entered.shape == s.left.shape
        for s in passed
    )


def _final_norm(
    module: PreTrainedModel, seen: dict[nn.Module, _Seen], layers: nn.ModuleList, logits: Tensor
) -> str:
    last = seen[layers[-1]].left
    head = module.get_output_embeddings()
    entered_head = seen.get(head, _Seen()).entered if head is not None else None
    for path, part in module.named_modules():
        passed = seen.get(part, _Seen())
        leaf = not list(part.children())
        if leaf and _equal(passed.entered, last) and _equal(passed.left, entered_head):
            return path
    raise _unsupported(module, "no norm stands between the last layer and the unembedding")


def _places(layer: nn.Module, seen: dict[nn.Module, _Seen]) -> dict[str, Place]:
    """Modules whose values satisfy the identities of the sites, by trying them."""
    before, after = seen[layer].entered, seen[layer].left
    assert before is not None
    assert after is not None
    parts = [(path, seen[part]) for path, part in layer.named_modules() if path and part in seen]
    outputs = [(p, s.left) for p, s in parts if s.left is not None and s.left.shape == before.shape]
    inputs = [
        (p, s.entered)
        for p, s in parts
        if s.entered is not None and s.entered.shape == before.shape
    ]
    for first_path, first in outputs:
        middle = before + first
        second = next((p for p, out in outputs if _close(middle + out, after)), None)
        middle_path = next((p for p, value in inputs if _close(value, middle)), None)
        if second is not None and middle_path is not None:
            found = {
                "attn.out": Place(first_path),
                "resid_mid": Place(middle_path, "input"),
                "mlp.out": Place(second),
            }
            return found | _hidden(layer, second, seen)
    for position, (first_path, first) in enumerate(outputs):
        for second_path, second in outputs[position + 1 :]:
            if _close(before + first + second, after):
                found = {"attn.out": Place(first_path), "mlp.out": Place(second_path)}
                return found | _hidden(layer, second_path, seen)
    return {}


def _hidden(layer: nn.Module, mlp: str, seen: dict[nn.Module, _Seen]) -> dict[str, Place]:
    """The down projection: the linear map whose output is what the MLP gives."""
    leaves = {
        path: part
        for path, part in layer.named_modules()
        if not list(part.children()) and getattr(part, "weight", torch.empty(0)).ndim == 2
    }
    result = seen[layer.get_submodule(mlp)]
    candidates = [result.left, result.entered]
    for path, part in leaves.items():
        passed = seen.get(part)
        if passed is None or passed.left is None or passed.entered is None:
            continue
        wider = passed.entered.shape[-1] != passed.left.shape[-1]
        if wider and any(_equal(passed.left, value) for value in candidates):
            return {"mlp.hidden": Place(path, "input")}
    return {}


def _attention_path(layer: nn.Module) -> str:
    from .attention import dispatches

    return next((path for path, part in layer.named_modules() if path and dispatches(part)), "")


def _path_of(module: nn.Module, part: nn.Module | None) -> str:
    return next((path for path, other in module.named_modules() if other is part), "")


def _equal(left: Tensor | None, right: Tensor | None) -> bool:
    return (
        left is not None
        and right is not None
        and left.shape == right.shape
        and torch.equal(left, right)
    )


def _close(left: Tensor, right: Tensor) -> bool:
    size = right.abs().max()
    return left.shape == right.shape and bool((left - right).abs().max() <= 1e-4 * size)


def _unsupported(module: PreTrainedModel, why: str) -> UnsupportedArchitectureError:
    return UnsupportedArchitectureError(
        f"{type(module).__name__} ({module.config.model_type}) is not among the listed "
        f"architectures, and its structure gives no sites: {why}. Add a table for it in "
        "probes/families (one file, see its docstring)."
    )
