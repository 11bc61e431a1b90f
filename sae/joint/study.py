"""The vision-language experiment in small: what dictionaries make of a space that two modalities share.

Each architecture is trained on the rows of both modalities at the same number of latents a row, and
is judged on rows held out. A latent's modality score is its mean code on pictures over the sum of
its mean codes on pictures and captions: 1 fires on pictures only, 0 on captions only, around one
half on both. The paper's weighting (text energy times 1/5 at five captions a picture) is the same
as taking means.

The claim examined: the usual autoencoders split a shared space into latents of one modality each,
scores bunched near 0 and 1, while matching pursuit also finds concepts of both.

References: arXiv 2506.03093, vision-language section (L0 of 5; expansion 25 there, 8 here; MS-COCO
    there). The exact definition of energy there is not known; mean codes are taken here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.results import Result, described
from ..architectures import make_sae
from ..base import SparseAutoencoder
from ..learner import LearnOptions
from ..metrics import coactive_babel, supports
from ..metrics.reconstruction import fvu
from ..schedule import ScheduleOptions
from ..train import Member, Trainer
from .captions import N_CAPTIONS, Captioned
from .towers import JointSpace

Progress = Callable[[int, int | None, str], None]

ARCHITECTURES = ("mp", "omp", "relu", "gated", "jumprelu", "topk", "batchtopk", "matryoshka")
N_BINS = 20
ONE_SIDED = 0.1
"""Scores below this or above one minus this belong to one modality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JointOptions:
    """Size and length of the trainings."""

    d_sae: int = 256
    """Latents (8 times the shared width)."""
    k: int = 5
    """Latents a row (the paper's L0)."""
    n_steps: int = 3000
    batch: int = 512
    learning_rate: float = 2e-3
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class JointStudy(Result):
    """Dictionaries of a joint image-text space, on held-out rows."""

    kind: ClassVar[str] = "sae_joint"
    architecture: np.ndarray = described("architecture", axes=("dictionaries",))
    l0: np.ndarray = described("mean latents a row", axes=("dictionaries",))
    fvu: np.ndarray = described("variance unexplained, all rows", axes=("dictionaries",))
    fvu_images: np.ndarray = described("of pictures", axes=("dictionaries",))
    fvu_texts: np.ndarray = described("of captions", axes=("dictionaries",))
    scores: np.ndarray = described(
        "modality score; NaN for latents silent on both", axes=("dictionaries", "latents")
    )
    energy: np.ndarray = described(
        "mean code on pictures plus that on captions", axes=("dictionaries", "latents")
    )
    edges: np.ndarray = described("edges of the score bins", axes=("edges",))
    counts: np.ndarray = described("latents by score", axes=("dictionaries", "bins"))
    one_sided: np.ndarray = described(
        "share of firing latents with a score below 0.1 or above 0.9", axes=("dictionaries",)
    )
    one_sided_energy: np.ndarray = described(
        "share of the code's energy in such latents", axes=("dictionaries",)
    )
    agreement: np.ndarray = described(
        "mean cosine of a caption's and its picture's codes", axes=("dictionaries",)
    )
    chance: np.ndarray = described("the same with a random picture", axes=("dictionaries",))
    n_dead: np.ndarray = described("latents silent on all rows", axes=("dictionaries",))
    babel_coactive: np.ndarray = described(
        "mean Babel function of a row's atoms at four others", axes=("dictionaries",)
    )
    retrieval: float = described("share of captions whose nearest picture has the right digit")
    gap: float = described("distance of the mean picture and the mean caption")
    d_sae: int = described("latents")
    d_joint: int = described("width of the shared space")
    n_steps: int = described("steps of training")
    n_images: int = described("held-out pictures")
    n_texts: int = described("held-out captions")
    summary: str = described("what the space is made of")


def modality_scores(
    first: Float[Tensor, "rows latents"], second: Float[Tensor, "others latents"]
) -> tuple[Float[np.ndarray, " latents"], Float[np.ndarray, " latents"]]:
    """Score and energy of each latent on two sets of rows: two modalities, or two corpora.

    Returns:
        `m1 / (m1 + m2)` with mean absolute codes m1 and m2 (NaN where both are 0), and `m1 + m2`.
    """
    one, two = (codes.abs().double().mean(0) for codes in (first, second))
    total = one + two
    return torch.where(total > 0, one / total, torch.nan).numpy(), total.numpy()


def joint_study(
    data: Captioned,
    space: JointSpace,
    *,
    architectures: Sequence[str] = ARCHITECTURES,
    options: JointOptions | None = None,
    progress: Progress | None = None,
) -> JointStudy:
    """Train all architectures on the same batches of pictures and captions, and compare them."""
    options = options or JointOptions()
    rows = torch.cat([space.images[~space.is_test_image], space.texts[~space.is_test_text]])
    saes = {name: _make(name, rows, options) for name in architectures}
    members = {name: Member(sae, _learning(options)) for name, sae in saes.items()}
    generator = torch.Generator().manual_seed(options.seed)
    trainer = Trainer(members)

    def batches():
        for _ in range(options.n_steps):
            yield rows[torch.randint(len(rows), (options.batch,), generator=generator)]

    trainer.fit(
        batches(),
        progress=None
        if progress is None
        else lambda n, total, _: progress(n, total, "all at once"),
    )
    images, texts = space.images[space.is_test_image], space.texts[space.is_test_text]
    near = torch.from_numpy(np.repeat(np.arange(len(images)), N_CAPTIONS))
    edges = np.linspace(0, 1, N_BINS + 1)
    columns = [_judge(sae.eval(), images, texts, near, edges) for sae in saes.values()]
    merged = {key: np.stack([column[key] for column in columns]) for key in columns[0]}
    return JointStudy(
        architecture=np.array(list(saes), dtype=str),
        edges=edges,
        retrieval=space.retrieval,
        gap=space.gap,
        d_sae=options.d_sae,
        d_joint=rows.shape[1],
        n_steps=options.n_steps,
        n_images=len(images),
        n_texts=len(texts),
        summary=f"{len(data.images):,} digit pictures, {N_CAPTIONS} captions each",
        **merged,
    )


def _make(name: str, rows: Tensor, options: JointOptions) -> SparseAutoencoder:
    chosen: dict[str, object] = {"d_in": rows.shape[1], "d_sae": options.d_sae}
    if name in {"relu", "gated"}:
        chosen["l1"] = L1
    elif name == "jumprelu":
        chosen |= {"k": float(options.k), "bandwidth": 0.05, "initial_threshold": 0.05}
    else:
        chosen["k"] = options.k
    sae = make_sae(name, seed=options.seed, **chosen)
    sae.initialise(rows)
    return sae


L1 = 0.12
"""Penalty of relu and gated; comes near five latents a row on rows of length 1."""


def _learning(options: JointOptions) -> LearnOptions:
    return LearnOptions(
        schedule=ScheduleOptions(n_steps=options.n_steps, warmup_steps=100),
        learning_rate=options.learning_rate,
    )


@torch.no_grad()
def _judge(
    sae: SparseAutoencoder, images: Tensor, texts: Tensor, near: Tensor, edges: np.ndarray
) -> dict[str, np.ndarray]:
    of_images, of_texts = sae.encode(images), sae.encode(texts)
    scores, energy = modality_scores(of_images, of_texts)
    fires = np.isfinite(scores)
    one_sided = fires & ((scores < ONE_SIDED) | (scores > 1 - ONE_SIDED))
    everything, codes = torch.cat([images, texts]), torch.cat([of_images, of_texts])
    shuffled = near[torch.randperm(len(near), generator=torch.Generator().manual_seed(0))]
    babel = coactive_babel(sae.W_dec.detach(), *supports(codes[:4096]), 4)
    values = {
        "l0": (codes != 0).sum(1).double().mean(),
        "fvu": fvu(everything, sae.decode(codes)),
        "fvu_images": fvu(images, sae.decode(of_images)),
        "fvu_texts": fvu(texts, sae.decode(of_texts)),
        "one_sided": one_sided.sum() / max(fires.sum(), 1),
        "one_sided_energy": energy[one_sided].sum() / max(energy.sum(), 1e-12),
        "agreement": _cosine(of_texts, of_images[near]),
        "chance": _cosine(of_texts, of_images[shuffled]),
        "n_dead": (~fires).sum(),
        "babel_coactive": babel[-1],
    }
    return {key: np.asarray(float(value)) for key, value in values.items()} | {
        "scores": scores,
        "energy": energy,
        "counts": np.histogram(scores[fires], edges)[0],
    }


def _cosine(first: Tensor, second: Tensor) -> float:
    both = torch.nn.functional.cosine_similarity(first, second, dim=1)
    return float(both.mean())
