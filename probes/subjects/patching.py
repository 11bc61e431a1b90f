"""Built states put back into the model they are built for: what its predictions lose by them.

A state of model B predicted from another's for a text that B has not been shown goes into B's own pass
at B's site, in place of what stands there. The loss is the cross-entropy of B's predictions against
those of its undisturbed pass, less that pass' own entropy, which is KL(own || patched), in nats per
position; B's own state loses nothing by construction. A built state is worth

    recovered = 1 - loss(built) / loss(mean state)

1 as the own state, 0 as the mean state of B's training items, below 0 where it does more harm still.

An item's signal is a mean over its positions (or its last position). The patch replaces that mean and
keeps what every token adds to it: all of the item's positions move by (built - own); for one position
that is plain replacement. Only these positions are changed and scored. Signals are standardised and
clipped before anything is built; what that alone costs is measured with the own state so treated.

The measure with intervals is ours: arXiv 2404.07850 judges built signals by images alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import OptionError
from ..information.resampling import MIN_DOCUMENTS, statistic_estimate, sums_by_document
from ..intervene import intervene
from ..model import Model
from ..readings.bootstrap import mean_with_interval
from ..rows import Positions
from .data import Subject
from .models import Item, Pool, tokens_of
from .synthesis import Built, second_half

Progress = Callable[[int, int, str], None]
PATCHED = ("bridge", "paired ridge")
"""Ways of building whose states are put back."""
ORIGINS = ("itself", "other subjects", "controls")
"""What the states put into a model are built from; the first shows what the bridge alone loses."""
ROWS = 16
"""Patched copies of a text in one pass."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """Where states built for a subject can be put."""

    open: Callable[[], Model]
    """Gives the subject's model; called when its turn comes."""
    site: str
    """The subject's site."""
    items: Sequence[Item]
    """The test items, one per test row of the subjects."""
    states: Float[Tensor, "test_items width"]
    """The model's own signals of them, as they were read."""
    pool: Pool
    """Which positions the signals are the mean of."""


@dataclass(frozen=True)
class Patches:
    """What states put into models cost them. Subjects that are controls are no targets (NaN)."""

    recovered: Float[np.ndarray, "patched source target bounds"]
    """Share of the mean state's loss that a built state does not lose."""
    loss: Float[np.ndarray, "patched source target bounds"]
    """Nats per position."""
    floor: Float[np.ndarray, "target bounds"]
    """Nats per position of the mean state."""
    clipped: Float[np.ndarray, "target bounds"]
    """Nats per position of the own state after standardising and clipping."""
    summary: Float[np.ndarray, "patched origins bounds"]
    """`recovered`, averaged over pairs, by `ORIGINS`."""
    n_items: int
    """Items that states were put in for."""


@torch.no_grad()
def nats_lost(
    model: Model, site: str, item: Item, pool: Pool, moves: Float[Tensor, "rows width"]
) -> tuple[Float[Tensor, " rows"], int]:
    """What moving an item's state costs the predictions at its positions.

    Args:
        model: An opened model.
        site: Where its state is moved.
        item: What it reads.
        pool: Which of the item's positions are moved.
        moves: What is added to the state at these positions; each row is a pass of its own.

    Returns:
        KL of the undisturbed predictions to those after each move, summed over the positions, nats;
        and the number of positions.
    """
    ids, inside = tokens_of(model, item, pool)
    still = torch.zeros_like(moves[:1])
    own, lost = None, []
    for part in torch.cat([still, moves]).split(ROWS):
        move = part.to(model.device)[:, None]
        with intervene(
            model, {site: lambda value, move=move: value + move.to(value)},
            rows=Positions(inside.tolist()),
        ):  # fmt: skip
            logits = model(ids.expand(len(part), -1), use_cache=False).logits[:, inside]
        log_probs = logits.float().log_softmax(-1)
        own = log_probs[0] if own is None else own
        lost.append((own.exp() * (own - log_probs)).sum(-1).sum(-1).cpu())
    return torch.cat(lost)[1:].double(), len(inside)


def patch_built(
    subjects: Sequence[Subject],
    hosts: Mapping[str, Host],
    built: Built,
    *,
    n_items: int = 40,
    progress: Progress | None = None,
) -> Patches:
    """Put built states into every subject that has a host.

    Args:
        subjects: Who takes part.
        hosts: By subject's name; those without one, controls above all, are no targets.
        built: Signals of the second half of the test items.
        n_items: Items taken, evenly from that half; all of it if it has no more.
        progress: Called after every item of every target.

    Raises:
        OptionError: No subject has a host, one has other items than the subjects, or built signals
            are not as wide as the subject's.
    """
    targets = [j for j, subject in enumerate(subjects) if subject.name in hosts]
    if not targets:
        raise OptionError(
            f"patching needs a host for one of {[s.name for s in subjects]}, got none."
        )
    later = second_half(len(subjects[0].test))
    n_later = len(subjects[0].test) - later.start
    chosen = np.unique(np.linspace(0, n_later - 1, min(n_items, n_later)).round().astype(np.int64))
    count, ways = len(subjects), len(PATCHED)
    losses = np.full((ways, count, count, len(chosen)), np.nan)
    ends = np.full((2, count, len(chosen)), np.nan)
    positions = np.ones((count, len(chosen)), dtype=np.int64)
    for turn, j in enumerate(targets):
        subject, host = subjects[j], hosts[subjects[j].name]
        _check(subject, host, built[PATCHED[0], j, j])
        model = host.open()
        for k, row in enumerate(chosen.tolist()):
            at = later.start + row
            put = torch.stack(
                [
                    subject.restored(subject.test[at][None])[0],
                    subject.restored(subject.test[:1] * 0)[0],
                ]
                + [
                    subject.restored(built[way, i, j][row][None])[0]
                    for way in PATCHED
                    for i in range(count)
                ]
            )
            lost, positions[j, k] = nats_lost(
                model, host.site, host.items[at], host.pool, put - host.states[at]
            )
            ends[:, j, k] = lost[:2].numpy()
            losses[:, :, j, k] = lost[2:].reshape(ways, count).numpy()
            if progress is not None:
                done = turn * len(chosen) + k + 1
                progress(done, len(targets) * len(chosen), f"patching {subject.name}")
    documents = subjects[0].test_documents
    where = np.arange(len(chosen)) if documents is None else documents[later][chosen]
    return _patches(subjects, targets, losses, ends, positions, where)


def _check(subject: Subject, host: Host, built: Tensor) -> None:
    if len(host.items) != len(subject.test) or host.states.shape != subject.test.shape:
        raise OptionError(
            f"the host of {subject.name} must have an item and a state for each of "
            f"{len(subject.test)} test rows, got {len(host.items)} and {tuple(host.states.shape)}."
        )
    if built.shape[1] != subject.width:
        raise OptionError(
            f"states built for {subject.name} must be {subject.width} wide to be put into it, got "
            f"{built.shape[1]}; build them with aggregate='linear'."
        )


def _patches(
    subjects: Sequence[Subject],
    targets: Sequence[int],
    losses: np.ndarray,
    ends: np.ndarray,
    positions: np.ndarray,
    documents: np.ndarray,
) -> Patches:
    """Intervals over documents of everything that was lost."""
    ways, count = losses.shape[:2]
    loss, recovered = (np.full((ways, count, count, 3), np.nan) for _ in range(2))
    limits = np.full((2, count, 3), np.nan)
    for j in targets:
        both = np.concatenate([losses[:, :, j].reshape(-1, len(documents)), ends[:, j]]).T
        bounds = np.stack(mean_with_interval(both, positions[j], documents), -1)
        loss[:, :, j] = bounds[:-2].reshape(ways, count, 3)
        limits[:, j] = bounds[-2:]
        for way in range(ways):
            for i in range(count):
                recovered[way, i, j] = _share([(losses[way, i, j], ends[1, j])], documents)
    summary = np.full((ways, len(ORIGINS), 3), np.nan)
    for origin, name in enumerate(ORIGINS):
        pairs = [(i, j) for j in targets for i in range(count) if _origin(subjects, i, j) == name]
        for way in range(ways):
            parts = [(losses[way, i, j], ends[1, j]) for i, j in pairs]
            summary[way, origin] = _share(parts, documents) if parts else np.nan
    return Patches(recovered, loss, limits[1], limits[0], summary, len(documents))


def _origin(subjects: Sequence[Subject], source: int, target: int) -> str:
    if source == target:
        return "itself"
    return "controls" if subjects[source].is_control else "other subjects"


def _share(parts: Sequence[tuple[np.ndarray, np.ndarray]], documents: np.ndarray) -> np.ndarray:
    """Mean over pairs of 1 - loss / floor, each of sums over all items, with bounds over documents."""
    columns = np.stack([column for part in parts for column in part], axis=1)
    sums, _ = sums_by_document(columns, documents)

    def share(drawn: Float[np.ndarray, "resamples columns"]) -> Float[np.ndarray, " resamples"]:
        return 1 - (drawn[:, ::2] / np.maximum(drawn[:, 1::2], 1e-30)).mean(1)

    if len(sums) < MIN_DOCUMENTS:
        return np.array([float(share(sums.sum(0)[None])[0]), np.nan, np.nan])
    found = statistic_estimate("a share of loss recovered", sums, share)
    return np.array([found.value, found.low, found.high])
