"""A student: a few layers between the target's own embedding and a cut of its unembedding.

What a student learns is its layers; embedding and unembedding stay the target's and are shared with it
in memory, so that a file holds the layers alone, in eight bits a weight with one scale per row. It may
begin with some of the target's first layers as they are, shared likewise (the shallow sub-network of
2404.18911): they cost time when drafting but no bytes, and what follows has less to learn. It
unembeds onto the tokens its target uses most (2502.14856 calls that a frequency-ranked vocabulary); to
all others it gives probability zero, which costs acceptance and never correctness.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...probes import Model, wrap_model
from ...probes.digest import file_digest
from ...probes.runfile.atomic import replacing
from ..errors import DraftError


class CutUnembedding(nn.Module):
    """Logits of some tokens; minus infinity for the others.

    Args:
        weight: The target's whole unembedding, kept by reference for who asks for it.
        ids: Tokens that get logits.
    """

    ids: Tensor
    cut: Tensor

    def __init__(self, weight: Float[Tensor, "d_vocab d_model"], ids: Sequence[int]) -> None:
        super().__init__()
        chosen = torch.tensor(list(ids), dtype=torch.int64)
        self.weight = weight
        self.out_features = weight.shape[0]
        self.register_buffer("ids", chosen.to(weight.device), persistent=False)
        self.register_buffer("cut", weight.detach()[self.ids].clone(), persistent=False)

    def narrow(self, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch kept"]:
        """Logits of the kept tokens only."""
        return nn.functional.linear(states, self.cut)

    def forward(self, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Logits over the whole vocabulary."""
        full = states.new_full((*states.shape[:-1], self.out_features), -torch.inf)
        return full.index_copy_(-1, self.ids, self.narrow(states))


@dataclass(frozen=True)
class Student:
    """A student and what it was made from."""

    model: Model
    """Opened like any model; a draft for the target it was made from."""
    layers: tuple[int, ...]
    """Layers of the target that its own began as."""
    n_shared: int
    """First layers of the target that run before its own, unchanged."""
    kept_ids: tuple[int, ...]
    """Tokens it can draft."""
    about: dict[str, Any]
    """How it was taught, and how good it was found to be."""


def new_student(
    target: Model,
    *,
    layers: Sequence[int] | None = None,
    n_shared: int = 0,
    kept_ids: Sequence[int] | None = None,
) -> Student:
    """A student that begins as some of the target's layers.

    Args:
        target: The model to draft for.
        layers: Which of its layers; None for the first that is not shared and the last.
        n_shared: How many of its first layers run before them, unchanged.
        kept_ids: Tokens that can be drafted; None for all.

    Raises:
        DraftError: The target has no such layer, or its parts cannot be found.
    """
    if not 0 <= n_shared < target.n_layers:
        raise DraftError(f"n_shared must be from 0 to {target.n_layers - 1}, got {n_shared}.")
    chosen = tuple(layers) if layers is not None else (n_shared, target.n_layers - 1)
    if not chosen or any(not 0 <= layer < target.n_layers for layer in chosen):
        raise DraftError(f"layers must be from 0 to {target.n_layers - 1}, got {chosen}.")
    ids = tuple(range(target.d_vocab)) if kept_ids is None else tuple(sorted(set(kept_ids)))
    module = target.module
    config = copy.deepcopy(module.config)
    order = [*range(n_shared), *chosen]
    config.num_hidden_layers = len(order)
    config.tie_word_embeddings = False
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in order]
    with torch.device("meta"):
        small = type(module)(config)
    body, own = _body(module), _body(small)
    own.embed_tokens = _sharing(body.embed_tokens)
    own.norm = copy.deepcopy(body.norm)
    for name, part in body.named_children():
        if name not in ("embed_tokens", "norm", "layers"):
            setattr(own, name, copy.deepcopy(part))
    own.layers = nn.ModuleList(
        _sharing(body.layers[layer]) if place < n_shared else copy.deepcopy(body.layers[layer])
        for place, layer in enumerate(order)
    )
    for number, layer in enumerate(own.layers):
        for part in layer.modules():
            if hasattr(part, "layer_idx"):
                setattr(part, "layer_idx", number)  # noqa: B010 modules take any attribute
    unembedding = module.get_output_embeddings()
    assert unembedding is not None
    small.lm_head = CutUnembedding(unembedding.weight, ids)
    small.generation_config = copy.deepcopy(module.generation_config)
    for part in small.modules():  # copied while somebody had laid the target out
        part.__dict__.pop("forward", None)
    small.eval()
    tokenizer = target.tokenizer if target.has_tokenizer else None
    model = wrap_model(small, tokenizer, name=f"student of {target.name}", check=False)
    return Student(model, chosen, n_shared, ids, {})


def save_student(student: Student, file: Path, target: Model, about: dict[str, Any]) -> None:
    """Write a student's own weights, eight bits each, and what they belong to."""
    tensors: dict[str, Tensor] = {"kept_ids": torch.tensor(student.kept_ids, dtype=torch.int32)}
    for name, weight in _own_weights(student.model.module, student.n_shared).items():
        if weight.ndim == 2:
            scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
            tensors[name] = (weight / scale).round().to(torch.int8)
            tensors[f"{name}.scale"] = scale.to(torch.float32)
        else:
            tensors[name] = weight.clone()
    facts = {
        "target": target.name,
        "target_digest": target.weights_digest,
        "layers": json.dumps(student.layers),
        "n_shared": json.dumps(student.n_shared),
        "about": json.dumps(about),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as path:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, facts)


def open_student(target: Model, file: Path | str) -> Student:
    """Open a student of a target.

    Raises:
        DraftError: There is no such file, or it is the student of another model.
    """
    path = Path(file)
    if not path.is_file():
        raise DraftError(f"No student at {path.name}. `fluoroscope distil` makes one.")
    with opened(path) as held:
        facts = held.metadata() or {}
        if facts.get("target_digest") != target.weights_digest:
            raise DraftError(
                f"{path.name} is a student of {facts.get('target', 'another model')} with other "
                f"weights than {target.name}. Make one for it: `fluoroscope distil --model ...`."
            )
        kept = held.get_tensor("kept_ids").tolist()
        n_shared = json.loads(facts.get("n_shared", "0"))
        made = new_student(
            target, layers=json.loads(facts["layers"]), n_shared=n_shared, kept_ids=kept
        )
        with torch.no_grad():
            for name, weight in _own_weights(made.model.module, n_shared).items():
                stored = held.get_tensor(name).to(weight.device)
                if stored.dtype == torch.int8:
                    stored = stored.float() * held.get_tensor(f"{name}.scale").to(weight.device)
                weight.copy_(stored)
    digest = hashlib.sha256(f"{target.weights_digest} {file_digest(path)}".encode()).hexdigest()
    model = _with_digest(made.model, digest)
    return replace(made, model=model, about=json.loads(facts["about"]))


def _with_digest(model: Model, digest: str) -> Model:
    """The same model, which knows that it came from files: what its passes cost can be kept."""
    tokenizer = model.tokenizer if model.has_tokenizer else None
    return Model(model.module, tokenizer, model.sites, name=model.name, weights_digest=digest)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A file of tensors.

    Raises:
        DraftError: It is damaged, or no such file.
    """
    try:
        with safe_open(path, framework="pt") as held:
            yield held
    except SafetensorError as error:
        raise DraftError(f"{path.name} is damaged or no .safetensors file: {error}") from error


def _own_weights(module: nn.Module, n_shared: int) -> dict[str, Tensor]:
    """Weights a student does not share with its target."""
    body = _body(module)
    shared = ("embed_tokens.", *(f"layers.{place}." for place in range(n_shared)))
    return {
        name: weight.data for name, weight in body.named_parameters() if not name.startswith(shared)
    }


def _sharing(part: nn.Module) -> nn.Module:
    """A copy over the same weights: who looks at the target's modules does not see the student's."""
    return copy.deepcopy(part, {id(weight): weight for weight in part.parameters()})


def _body(module: nn.Module) -> Any:
    body = getattr(module, "model", None)
    if any(getattr(body, name, None) is None for name in ("embed_tokens", "layers", "norm")):
        raise DraftError(
            f"{type(module).__name__} has no model.embed_tokens, model.layers and model.norm; students "
            "are made of models laid out like Llama. Use any smaller model of the same vocabulary."
        )
    return body
