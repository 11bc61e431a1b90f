"""Pictures and what can be said of them: handwritten digits with captions from measurements.

The pictures are scikit-learn's digits (1,797 handwritten digits, 8 x 8 grey values), which come
with the package. A caption is made from the picture's label and from what is measured on the
picture itself: how much ink there is, how far the strokes lean, how wide the digit is, where its
weight lies. Words and order vary, and a caption names only some of the properties, as people's
captions do; five captions a picture, as in MS-COCO.

What makes it fair as a small image-text space: both modalities are real inputs of different kinds,
no weights are shared, and the shared concepts form a hierarchy (a digit, then how it is drawn).
What it cannot stand for: captions say nothing that is not measured, and the vocabulary has some
sixty words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.datasets import load_digits

N_CAPTIONS = 5
SIDE = 8

DIGITS = (
    ("zero", "nought", "0"), ("one", "1"), ("two", "2"), ("three", "3"), ("four", "4"),
    ("five", "5"), ("six", "6"), ("seven", "7"), ("eight", "8"), ("nine", "9"),
)  # fmt: skip
PROPERTIES = {
    "ink": (("thin", "light", "faint"), ("medium", "plain"), ("bold", "thick", "heavy")),
    "slant": (("leaning left", "backward"), ("upright", "straight"), ("leaning right", "slanted")),
    "width": (("narrow", "slim"), ("regular", "usual"), ("wide", "broad")),
    "weight": (("top heavy", "high"), ("balanced", "centred"), ("bottom heavy", "low")),
}
"""Words for each third of each measured property."""
FRAMES = (
    "a {style} {digit}",
    "the digit {digit} {style}",
    "{digit} written {style}",
    "a picture of a {style} {digit}",
    "handwriting {style} number {digit}",
)


@dataclass(frozen=True)
class Captioned:
    """Pictures with captions; rows of captions follow their picture, `N_CAPTIONS` each."""

    images: Float[np.ndarray, "images pixels"]
    """Grey values from 0 to 1."""
    labels: Int[np.ndarray, " images"]
    styles: Int[np.ndarray, "images properties"]
    """Which third each measured property falls in: 0, 1 or 2."""
    captions: tuple[str, ...]
    image_of: Int[np.ndarray, " captions"]
    """Picture of each caption."""


def captioned_digits(*, seed: int = 0, shifts: bool = True) -> Captioned:
    """All digits with their captions.

    Args:
        seed: Fixes which words and properties captions use.
        shifts: Whether each picture also comes moved by one pixel in four directions, which gives
            8,985 pictures with captions of their own.
    """
    pixels, labels = load_digits(return_X_y=True)
    images = np.asarray(pixels, dtype=np.float64).reshape(-1, SIDE, SIDE) / 16
    labels = np.asarray(labels, dtype=np.int64)
    if shifts:
        moves = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))
        images = np.stack([_moved(images, *move) for move in moves], axis=1).reshape(-1, SIDE, SIDE)
        labels = np.repeat(labels, len(moves))
    styles = _thirds(measure(images))
    generator = np.random.default_rng(seed)
    captions = tuple(
        caption(int(label), style, generator)
        for label, style in zip(labels, styles, strict=True)
        for _ in range(N_CAPTIONS)
    )
    return Captioned(
        images.reshape(len(images), -1),
        labels,
        styles,
        captions,
        np.repeat(np.arange(len(images)), N_CAPTIONS),
    )


def measure(
    images: Float[np.ndarray, "images height width"],
) -> Float[np.ndarray, "images properties"]:
    """Ink (mean grey), slant (skew of the ink), width (spread across), weight (mean height).

    Slant is the covariance of across and up over the variance of up: 0 is upright, above 0 leans to
    the right. Weight is the mean row, larger further down.
    """
    total = images.sum((1, 2))
    down, across = np.mgrid[: images.shape[1], : images.shape[2]].astype(float)
    mean_down = (images * down).sum((1, 2)) / total
    mean_across = (images * across).sum((1, 2)) / total
    up = mean_down[:, None, None] - down
    right = across - mean_across[:, None, None]
    covariance = (images * up * right).sum((1, 2)) / total
    variance = (images * up**2).sum((1, 2)) / total
    spread = np.sqrt((images * right**2).sum((1, 2)) / total)
    ink = images.mean((1, 2))
    return np.stack([ink, covariance / np.maximum(variance, 1e-9), spread, mean_down], axis=1)


def caption(label: int, style: np.ndarray, generator: np.random.Generator) -> str:
    """One caption: the digit, and one to three of its properties in words."""
    n = int(generator.integers(1, 4))
    named = generator.permutation(len(PROPERTIES))[:n]
    properties = list(PROPERTIES.values())
    words = [generator.choice(properties[i][style[i]]) for i in named]
    digit = str(generator.choice(DIGITS[label]))
    return str(generator.choice(FRAMES)).format(style=" ".join(words), digit=digit)


def _thirds(values: Float[np.ndarray, "images properties"]) -> np.ndarray:
    bounds = np.quantile(values, [1 / 3, 2 / 3], axis=0)
    return (values[:, None, :] > bounds[None]).sum(1)


def _moved(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Pictures moved by whole pixels; what leaves is gone, what comes in is empty."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    return padded[:, 1 - down : 1 - down + SIDE, 1 - right : 1 - right + SIDE]
