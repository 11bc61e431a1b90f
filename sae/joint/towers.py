"""A small image-text model: two towers that share a space and no weights, trained by contrast.

Each tower ends on the unit sphere; of a batch's pictures and captions the right pairs must be
closer than all wrong ones (InfoNCE in both directions, temperature learned), as in CLIP (arXiv
2103.00020). Trains in well under a minute on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from .captions import N_CAPTIONS, Captioned

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerOptions:
    """Shape and training of the two towers."""

    d_joint: int = 32
    """Width of the shared space."""
    d_hidden: int = 128
    n_steps: int = 1500
    batch: int = 256
    learning_rate: float = 2e-3
    test_share: float = 0.2
    """Share of the pictures kept out of training, whole source pictures with all their shifts."""
    seed: int = 0


class Towers(nn.Module):
    """Two encoders into one space.

    Args:
        words: The vocabulary of captions.
        options: Shape.
    """

    def __init__(self, words: Sequence[str], options: TowerOptions) -> None:
        super().__init__()
        self.words = {word: number + 1 for number, word in enumerate(words)}  # 0 is padding
        width, hidden = options.d_joint, options.d_hidden
        self.image = nn.Sequential(nn.Linear(64, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.embedding = nn.Embedding(len(words) + 1, hidden, padding_idx=0)
        self.text = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.scale = nn.Parameter(torch.tensor(np.log(10.0), dtype=torch.float32))

    def tokens(self, captions: Sequence[str]) -> Int64[Tensor, "captions positions"]:
        """Numbers of the captions' words, padded with 0; unknown words are left out."""
        rows = [[self.words[w] for w in text.split() if w in self.words] for text in captions]
        width = max(map(len, rows), default=1)
        return torch.tensor([row + [0] * (width - len(row)) for row in rows])

    def embed_images(
        self, images: Float[Tensor, "images pixels"]
    ) -> Float[Tensor, "images d_joint"]:
        """Pictures in the shared space, of length 1."""
        return F.normalize(self.image(images), dim=-1)

    def embed_texts(
        self, tokens: Int64[Tensor, "captions positions"]
    ) -> Float[Tensor, "captions d_joint"]:
        """Captions in the shared space, of length 1: mean of words through a small network."""
        there = (tokens > 0)[..., None]
        mean = (self.embedding(tokens) * there).sum(1) / there.sum(1).clamp(min=1)
        return F.normalize(self.text(mean), dim=-1)


@dataclass(frozen=True)
class JointSpace:
    """A trained space and the rows in it."""

    images: Float[Tensor, "images d_joint"]
    texts: Float[Tensor, "captions d_joint"]
    is_test_image: np.ndarray
    is_test_text: np.ndarray
    retrieval: float
    """Share of held-out captions whose nearest held-out picture has the caption's digit."""
    gap: float
    """Distance between the mean picture and the mean caption."""


def train_towers(
    data: Captioned, options: TowerOptions | None = None, *, progress: Progress | None = None
) -> JointSpace:
    """Train both towers and embed all pictures and captions."""
    options = options or TowerOptions()
    torch_generator = torch.Generator().manual_seed(options.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)  # layers draw their weights from the global generator
        words = sorted({word for text in data.captions for word in text.split()})
        towers = Towers(words, options)
    images = torch.from_numpy(data.images).float()
    tokens = towers.tokens(data.captions)
    is_test = _held_out(len(images), options)
    train = torch.from_numpy(np.flatnonzero(~is_test))
    optimiser = torch.optim.AdamW(towers.parameters(), lr=options.learning_rate)
    for step in range(options.n_steps):
        chosen = train[torch.randint(len(train), (options.batch,), generator=torch_generator)]
        which = torch.randint(N_CAPTIONS, (options.batch,), generator=torch_generator)
        near = towers.embed_images(images[chosen])
        far = towers.embed_texts(tokens[chosen * N_CAPTIONS + which])
        logits = near @ far.T * towers.scale.exp().clamp(max=100)
        target = torch.arange(options.batch)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if progress is not None and step % 50 == 0:
            progress(step, options.n_steps, f"loss {loss.item():.2f}")
    with torch.no_grad():
        near, far = towers.embed_images(images), towers.embed_texts(tokens)
    is_test_text = is_test[data.image_of]
    return JointSpace(
        near,
        far,
        is_test,
        is_test_text,
        _retrieval(near[is_test], far[is_test_text], data, is_test, is_test_text),
        float((near.mean(0) - far.mean(0)).norm()),
    )


def _held_out(n_images: int, options: TowerOptions) -> np.ndarray:
    """Which pictures are held out; copies of one source picture go together."""
    n_sources = 1797
    copies = max(n_images // n_sources, 1)
    generator = np.random.default_rng(options.seed)
    sources = generator.random(-(-n_images // copies)) < options.test_share
    return np.repeat(sources, copies)[:n_images]


def _retrieval(
    near: Tensor, far: Tensor, data: Captioned, is_test: np.ndarray, is_test_text: np.ndarray
) -> float:
    nearest = (far @ near.T).argmax(1).numpy()
    found = data.labels[is_test][nearest]
    return float((found == data.labels[data.image_of[is_test_text]]).mean())
