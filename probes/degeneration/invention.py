"""Does a model invent more as it goes on? The hallucination ratio of its own continuations.

The model continues each source greedily; its words are judged beside the true continuation and a
table of what goes with the source's words in other documents (`hallucination`). A ratio alone says
little: the reference is one continuation of many. So another document's true continuation is judged
in the same way: words that belong to a text, but not to this source. A model that keeps to its source
stays below it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import DynamicCache

from ..errors import OptionError
from ..model import Model
from ..readings.bootstrap import mean_with_interval
from ..readings.texts import Texts
from ..results import Result, described
from .hallucination import CoOccurrence, unaccounted
from .options import DegenerationOptions
from .result import FEWEST, long_enough, other_documents

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class HallucinationRatio(Result):
    """Share of generated words that neither reference nor source accounts for, by step."""

    kind: ClassVar[str] = "hallucination_ratio"
    steps: np.ndarray = described("last word of each bin", axes=("bins",))
    ratio: np.ndarray = described("HR of the model's own continuation", axes=("bins",))
    ratio_low: np.ndarray = described("lower 95 % bound over documents", axes=("bins",))
    ratio_high: np.ndarray = described("upper bound", axes=("bins",))
    other: np.ndarray = described("HR of another document's continuation", axes=("bins",))
    other_low: np.ndarray = described("lower bound", axes=("bins",))
    other_high: np.ndarray = described("upper bound", axes=("bins",))
    n_judged: np.ndarray = described("texts that got so far", axes=("bins",))
    ceiling: float = described("HR of words never seen with the source")
    n_texts: int = described("sources continued")
    n_documents: int = described("documents they are from")
    n_counted: int = described("texts of other documents counted")
    n_source: int = described("tokens of the source", unit="tokens")
    n_target: int = described("tokens generated", unit="tokens")
    alpha: float = described("count that accounts for a word by half")
    beta: float = described("counts over which that grows")
    example: str = described("a source, the model's continuation after ' => '")


def hallucination_ratio(
    model: Model,
    texts: Texts,
    counted: Texts,
    options: DegenerationOptions | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    progress: Progress | None = None,
) -> HallucinationRatio:
    """Let a model continue sources and judge its words.

    Args:
        model: An opened model with a tokenizer.
        texts: Texts of at least `options.length` tokens; their beginnings are the sources, what follows
            the references.
        counted: Texts the table of counts is made of; those of documents in `texts` are left out.
        options: Lengths of source and continuation.
        alpha: See `CoOccurrence`.
        beta: See `CoOccurrence`.
        progress: Called after every generated token.

    Raises:
        OptionError: Fewer than four texts are long enough, none is left to count, or `beta` is not
            positive.
    """
    chosen = options or DegenerationOptions()
    kept = long_enough(texts, chosen.length)
    judged = set(kept.sources)
    pairs = [
        _parts(model, ids, chosen)
        for ids, source in zip(counted.ids, counted.sources, strict=True)
        if source not in judged and len(ids) >= chosen.length
    ]
    if not pairs:
        raise OptionError(
            f"Counting words needs texts of {chosen.length} tokens from documents that are not judged, "
            "got none; capture more documents (--tokens), or judge fewer texts."
        )
    table = CoOccurrence(pairs, alpha=alpha, beta=beta)
    true = [_parts(model, ids, chosen) for ids in kept.ids]
    sources, references = [source for source, _ in true], [after for _, after in true]
    begun = torch.from_numpy(np.stack([ids[: chosen.n_source] for ids in kept.ids]))
    made = [
        _written(model, row) for row in continued(model, begun, chosen.n_target, progress=progress)
    ]
    others = [references[n] for n in other_documents(kept.documents)]
    own = unaccounted(sources, references, made, table)
    edges = _edges(own)
    ratio = _binned(own, edges, kept.documents)
    foreign = _binned(unaccounted(sources, references, others, table), edges, kept.documents)
    return HallucinationRatio(
        steps=edges[1:],
        ratio=ratio[0], ratio_low=ratio[1], ratio_high=ratio[2],
        other=foreign[0], other_low=foreign[1], other_high=foreign[2],
        n_judged=np.array([_reach(own, start) for start in edges[:-1].tolist()]),
        ceiling=1 - CoOccurrence([("a", "b")], alpha=alpha, beta=beta).accounted("a", "c"),
        n_texts=len(kept),
        n_documents=kept.n_documents,
        n_counted=table.n_pairs,
        n_source=chosen.n_source,
        n_target=chosen.n_target,
        alpha=alpha,
        beta=beta,
        example=f"{sources[0]} => {made[0]}",
    )  # fmt: skip


@torch.no_grad()
def continued(
    model: Model,
    ids: Int64[Tensor, "texts source"],
    n_tokens: int,
    *,
    progress: Progress | None = None,
) -> Int64[Tensor, "texts target"]:
    """The model's greedy continuation of rows of one length."""
    cache, fed, found = DynamicCache(config=model.module.config), ids, []
    for number in range(n_tokens):
        logits = model(fed, past_key_values=cache, use_cache=True).logits[:, -1]
        fed = logits.argmax(-1, keepdim=True)
        found.append(fed.cpu())
        if progress is not None:
            progress(number + 1, n_tokens, "continuing the sources")
    return torch.cat(found, 1)


def _parts(
    model: Model, ids: Int64[np.ndarray, " tokens"], options: DegenerationOptions
) -> tuple[str, str]:
    """Source and continuation of a text, decoded."""
    cut = options.n_source
    return model.decode(ids[:cut].tolist()), model.decode(ids[cut : options.length].tolist())


def _written(model: Model, ids: Int64[Tensor, " target"]) -> str:
    """A continuation up to the end-of-text token, decoded."""
    tokens, end = ids.tolist(), model.tokenizer.eos_token_id
    return model.decode(tokens[: tokens.index(end)] if end in tokens else tokens)


def _reach(values: Float[np.ndarray, "texts words"], start: int) -> int:
    """Texts with a word at a place."""
    return int(np.isfinite(values[:, start]).sum())


def _edges(values: Float[np.ndarray, "texts words"]) -> np.ndarray:
    """Bins of doubling length, as far as `FEWEST` texts reach."""
    n_words = values.shape[1]
    starts = [0, *(2**k for k in range(n_words.bit_length()))]
    kept = [start for start in starts if start < n_words and _reach(values, start) >= FEWEST]
    if not kept:
        raise OptionError(
            f"The hallucination ratio needs {FEWEST} continuations that hold a word, got fewer; ask "
            "for a longer target, or for a model of text."
        )
    return np.array([*kept, min(max(2 * kept[-1], 1), n_words)])


def _binned(
    values: Float[np.ndarray, "texts words"],
    edges: np.ndarray,
    documents: Int64[np.ndarray, " texts"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the words of each bin, with its interval over documents."""
    found = []
    for start, stop in pairwise(edges.tolist()):
        part = values[:, start:stop]
        counts = np.isfinite(part).sum(1)
        held = counts > 0
        sums = np.nansum(part[held], 1)
        nothing = (np.nan, np.nan, np.nan)
        found.append(
            mean_with_interval(sums, counts[held], documents[held]) if held.any() else nothing
        )
    middle, low, high = (np.array(column) for column in zip(*found, strict=True))
    return middle, low, high
