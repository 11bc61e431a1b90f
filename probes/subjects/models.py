"""Models as subjects: the stimulus is a piece of text, the signal a hidden state of any width.

An item is a character span, since tokenisers differ. A model's signal is its state at the last token
that ends within the span, or the mean over the span's tokens; its first token (a sink in most models)
never counts. Training items differ between models where there are enough of them; test items are the
same, and come from other documents.

The meaning of an item is a frozen teacher's: the teacher model's last normed state, averaged over the
item's tokens and reduced to its largest principal components on the training items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import HashingVectorizer
from torch import Tensor

from ..capture import capture
from ..errors import OptionError
from ..model import Model
from .data import Subject, scaling, standardise

Progress = Callable[[int, int, str], None]
Pool = Literal["mean", "last"]


@dataclass(frozen=True)
class Item:
    """A span of a document."""

    document: int
    text: str
    """The document's text up to the span's end: what a model reads."""
    start: int
    """First character of the span."""


def items_of(
    documents: Sequence[str], *, per_document: int = 4, min_chars: int = 24, max_chars: int = 160
) -> list[Item]:
    """Lines of documents as items, a few of each, so that no document dominates.

    Args:
        documents: Texts.
        per_document: Most items of one.
        min_chars: Shorter lines are passed over.
        max_chars: Lines are cut here; a model also reads at most so many characters before.
    """
    found: list[Item] = []
    for number, document in enumerate(documents):
        taken, place = 0, 0
        for line in document.splitlines(keepends=True):
            start, place = place, place + len(line)
            if taken < per_document and len(line.strip()) >= min_chars:
                begin = max(start - max_chars, 0)
                end = min(start + max_chars, start + len(line.rstrip()))
                found.append(Item(number, document[begin:end], start - begin))
                taken += 1
    return found


def signals(
    model: Model,
    items: Sequence[Item],
    sites: Sequence[str],
    *,
    pool: Pool = "mean",
    progress: Progress | None = None,
) -> dict[str, Float[Tensor, "items _"]]:
    """A model's states for items, by site; every item is read once for all sites.

    Args:
        model: An opened model with a tokenizer that knows where its tokens stand.
        items: What it reads.
        sites: Sites with rows of positions; each names one.
        pool: Mean over the item's tokens, or its last.
        progress: Called after every item.

    Raises:
        UnknownSiteError: No such site.
        OptionError: The tokenizer cannot say which characters a token covers, or a pattern names
            several sites.
    """
    places = [place for site in sites for place in model.sites.resolve(site)]
    if len(places) != len(sites):
        raise OptionError(
            f"Each subject's site must name one site, got {len(places)} for {list(sites)}; a pattern "
            "such as layers.* is several subjects."
        )
    require_offsets(model)
    rows: list[list[Tensor]] = [[] for _ in places]
    for number, item in enumerate(items):
        ids, inside = tokens_of(model, item, pool)
        names = [place.name for place in places]
        with torch.no_grad(), capture(model, *names, stop_early=True) as acts:
            model(ids[None], use_cache=False)
        for held, name in zip(rows, names, strict=True):
            held.append(acts[name][0, inside].float().mean(0).cpu())
        if progress is not None:
            progress(number + 1, len(items), model.name)
    return {site: torch.stack(held) for site, held in zip(sites, rows, strict=True)}


def require_offsets(model: Model) -> None:
    """Refuse a tokenizer that cannot tell the characters of its tokens.

    Raises:
        OptionError: It cannot.
    """
    if not getattr(model.tokenizer, "is_fast", False):
        raise OptionError(f"{model.name} needs a tokenizer that tells characters of its tokens.")


def tokens_of(
    model: Model, item: Item, pool: Pool
) -> tuple[Int64[Tensor, " positions"], Int64[Tensor, " inside"]]:
    """What a model reads of an item, and which positions its signal is the mean of.

    Args:
        model: An opened model.
        item: A span.
        pool: All tokens of the item, or its last; the text's first token never counts unless alone.
    """
    encoded = model.tokenizer(item.text, return_offsets_mapping=True)
    ends = torch.tensor(encoded["offset_mapping"])[:, 1]
    inside = torch.nonzero(ends > item.start)[:, 0]
    inside = inside[inside > 0] if len(inside) > 1 else inside
    return torch.tensor(encoded["input_ids"]), inside if pool == "mean" else inside[-1:]


def teacher_targets(
    states: Float[Tensor, "items width"], n_train: int, *, d_semantic: int = 64
) -> Float[Tensor, "items d_semantic"]:
    """Meanings from a teacher's states: principal components fitted on the first `n_train` rows.

    Components are scaled to variance one, so that no single one is the whole meaning.
    """
    kept = min(d_semantic, n_train - 1, states.shape[1])
    principal = PCA(kept, whiten=True, random_state=0).fit(states[:n_train].numpy())
    return torch.from_numpy(principal.transform(states.numpy())).float()


def bag_of_words(items: Sequence[Item], width: int = 512) -> Float[Tensor, "items width"]:
    """Hashed word counts of the spans: a control without any model, for lexical leakage."""
    hashed = HashingVectorizer(n_features=width, alternate_sign=False, token_pattern=r"\w+")
    texts = [item.text[item.start :] for item in items]
    counts: Any = hashed.transform(texts)
    return torch.from_numpy(np.asarray(counts.todense())).float()


def split_items(items: Sequence[Item], n_test: int) -> tuple[list[Item], list[Item]]:
    """Training and test items from different documents; the last documents are the test's.

    Raises:
        OptionError: Not enough items for that many test items and as many to train on.
    """
    if len(items) < 2 * n_test:
        raise OptionError(
            f"{n_test} test items need at least {2 * n_test} items, got {len(items)}; give more text."
        )
    border = items[-n_test].document
    return (
        [item for item in items if item.document < border],
        [item for item in items if item.document >= border],
    )


def model_subjects(
    sources: dict[str, Float[Tensor, "items width"]],
    targets: Float[Tensor, "items d_semantic"],
    n_train: int,
    *,
    shared: bool = False,
    n_anchors: int = 0,
    test_documents: Int64[np.ndarray, " test_items"] | None = None,
    controls: Mapping[str, str] | None = None,
) -> list[Subject]:
    """Subjects from signals of the same items.

    Args:
        sources: Signals by subject name, training items first.
        targets: What the items mean.
        n_train: How many rows are training items, anchors included; the rest are the test.
        shared: Whether all subjects train on all items; else they are dealt out in turn, so that no
            two subjects share a stimulus.
        n_anchors: How many of the first rows are anchors, which nobody trains on.
        test_documents: Document of each test item, for intervals.
        controls: By name of a control, the subject it is the floor of; empty where of all.
    """
    subjects = []
    for number, (name, rows) in enumerate(sources.items()):
        first = n_anchors + (0 if shared else number)
        own = torch.arange(first, n_train, 1 if shared else len(sources))
        train, test, anchors = standardise(rows[own], rows[n_train:], rows[:n_anchors])
        mean, scale = scaling(rows[own])
        subjects.append(
            Subject(
                name, train, targets[own], test, targets[n_train:],
                anchors if n_anchors else None, test_documents,
                (controls or {}).get(name), mean, scale,
            )
        )  # fmt: skip
    return subjects
