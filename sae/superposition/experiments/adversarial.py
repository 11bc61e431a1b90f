"""Does adversarial training change superposition, and which way (arXiv 2512.13568)?

Perceptrons 64-h-h-k on handwritten digits are trained half on clean and half on attacked images
(PGD, random start, budgets eps of the pixel range, ramped up over the first half of training).
Dictionaries are trained on clean and on attacked test-time activations, apart, per layer. The
paper: with few classes and much room (abundance) F grows with eps, with many classes and little
room (scarcity) it falls; so "adversarial training reduces superposition" is false in general.

The data are scikit-learn's 8 by 8 digits (1,797 images), which come with the package; MNIST and
CIFAR-10, which the paper uses, would have to be downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ....probes.errors import OptionError
from ..claims import Claim
from ..crossed import count_and_width, crossed_unit, crossed_units
from ..journal import Progress, Rows
from ..mlp import FitOptions, StackedMLP, accuracy, cross_entropy, fit
from ..reading import read_tied
from ..study import Study, over_seeds
from ..tasks import Task
from ..tied import TiedOptions, train_tied

N_LAYERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class AdversarialOptions:
    """Size of the experiment."""

    classes: tuple[int, ...] = (2, 10)
    """Digits told apart, the first so many."""
    widths: tuple[int, ...] = (8, 32, 128)
    """Units of both hidden layers."""
    budgets: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3)
    """eps, largest change of a pixel whose range is 0 to 1 (paper on MNIST)."""
    n_seeds: int = 3
    """Networks per condition (paper: 3)."""
    n_epochs: int = 60
    """Of the networks (paper: 100)."""
    batch_rows: int = 128
    """Rows per step of the networks (paper: 256)."""
    learning_rate: float = 3e-3
    """Of Adam (paper: SGD)."""
    attack_steps: int = 10
    """Of the attack (paper: 40 of 0.01); each moves 2.5 eps over the number of steps."""
    expansion: int = 4
    """Latents over h (paper)."""
    l1: float = 0.1
    """Penalty of the dictionaries (paper)."""
    sae_epochs: int = 30
    """Of the dictionaries."""

    def __post_init__(self) -> None:
        if 0.0 not in self.budgets or len(self.budgets) < 2 or min(self.budgets) < 0:
            raise OptionError(f"budgets must hold 0 and another from 0 up, got {self.budgets}.")
        if not self.classes or not self.widths or not all(2 <= c <= 10 for c in self.classes):
            raise OptionError(
                f"classes must be 2 to 10 and widths not empty, got {self.classes}, {self.widths}."
            )


def digits(n_classes: int) -> Task:
    """Images of the first digits, pixels in 0 to 1; strata are the digits."""
    from sklearn.datasets import load_digits

    pixels, target = load_digits(n_class=n_classes, return_X_y=True)
    x = torch.tensor(np.asarray(pixels) / 16.0, dtype=torch.float32)
    labels = torch.tensor(np.asarray(target), dtype=torch.int64)
    return Task(x, labels, labels, n_classes)


def attack(
    networks: StackedMLP,
    x: Float[Tensor, "models rows inputs"],
    labels: Int[Tensor, "models rows"],
    eps: Float[Tensor, " models"],
    *,
    n_steps: int,
    generator: torch.Generator,
) -> Float[Tensor, "models rows inputs"]:
    """Projected gradient descent on the loss within eps of each pixel (Madry et al., arXiv 1706.06083).

    Args:
        networks: What is attacked; its parameters get no gradient.
        x: Images, pixels in 0 to 1.
        labels: Their right classes.
        eps: Budget of each model; 0 leaves its images as they are.
        n_steps: Steps of size 2.5 eps / n_steps.
        generator: Draws the random start.
    """
    reach = eps[:, None, None]
    start = torch.rand(x.shape, generator=generator) * 2 - 1
    moved = (x + reach * start).clamp(0, 1)
    parameters = [p.detach() for p in networks.parameters()]
    names = [name for name, _ in networks.named_parameters()]
    frozen = dict(zip(names, parameters, strict=True))
    for _ in range(n_steps):
        moved.requires_grad_()
        loss = cross_entropy(torch.func.functional_call(networks, frozen, (moved,)), labels).sum()
        (gradient,) = torch.autograd.grad(loss, moved)
        with torch.no_grad():
            moved = moved + 2.5 * reach / n_steps * gradient.sign()
            moved = torch.minimum(torch.maximum(moved, x - reach), x + reach).clamp(0, 1)
    return moved.detach()


def _unit(options: AdversarialOptions, unit: str, progress: Progress) -> Rows:
    n_classes, width = count_and_width(unit)
    task = digits(n_classes)
    eps = torch.tensor(options.budgets).repeat_interleave(options.n_seeds)
    seeds = torch.arange(options.n_seeds).repeat(len(options.budgets))
    train, test = _split(task, seeds)
    networks = StackedMLP(
        len(eps), (64, width, width, n_classes), torch.Generator().manual_seed(width)
    )
    noise = torch.Generator().manual_seed(1)

    def perturb(networks: StackedMLP, x: Tensor, labels: Tensor, share: float) -> Tensor:
        ramp = eps * min(2 * share, 1.0)
        return attack(networks, x, labels, ramp, n_steps=options.attack_steps, generator=noise)

    recipe = FitOptions(
        n_epochs=options.n_epochs,
        batch_rows=options.batch_rows,
        learning_rate=options.learning_rate,
    )
    parts = 1 + 2 * N_LAYERS
    fit(
        networks, task.x, task.labels, train, cross_entropy, recipe, perturb=perturb,
        progress=lambda done, total, note: progress(done, parts * total, note),
    )  # fmt: skip
    clean = accuracy(networks, task.x, task.labels, test)
    # Dictionaries see all images, clean or attacked, as the paper's see what they are read on.
    everything = task.x.expand(len(eps), -1, -1)
    right = task.labels.expand(len(eps), -1)
    attacked = attack(
        networks, everything, right, eps, n_steps=options.attack_steps, generator=noise
    )
    with torch.no_grad():
        hit = (networks(attacked).argmax(-1) == right).float().gather(1, test).mean(1)
    found: Rows = []
    part = 1
    for layer in range(N_LAYERS):
        for is_attacked, images in ((0, everything), (1, attacked)):
            states = networks.hidden(images, layer)
            recipe_sae = TiedOptions(
                n_latents=options.expansion * width, l1=options.l1, max_epochs=options.sae_epochs
            )
            saes = train_tied(
                states, recipe_sae,
                progress=lambda done, total, note, part=part: progress(
                    part * total + done, parts * total, note
                ),
            )  # fmt: skip
            part += 1
            for i, reading in enumerate(read_tied(saes, states)):
                found.append(
                    reading.as_dict()
                    | {"x": round(eps[i].item(), 6), "group": unit, "seed": int(seeds[i])}
                    | {"score": hit[i].item(), "clean accuracy": clean[i].item()}
                    | {"layer": layer, "attacked": is_attacked}
                )
    return found


def _split(task: Task, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """A fifth of the images of each digit to test on."""
    return task.split(seeds, train_share=0.8)


def _claims(rows: Rows, options: AdversarialOptions) -> list[Claim]:
    slopes = {
        (c, w): _slopes(rows, crossed_unit(c, "classes", w), w, options)
        for c in options.classes
        for w in options.widths
    }
    claims = []
    for (n_classes, width), found in slopes.items():
        room = n_classes == min(options.classes) and width == max(options.widths)
        tight = n_classes == max(options.classes) and width == min(options.widths)
        if not room and not tight:
            continue
        claims.append(
            Claim.over_seeds(
                found,
                text=f"{'abundance' if room else 'scarcity'} ({n_classes} classes, width {width}): "
                f"F {'grows' if room else 'falls'} with eps (slope of F / F(0))",
                paper="up to 2 times" if room else "up to -60 %",
                side="above" if room else "below",
            )
        )
    few, many = min(options.classes), max(options.classes)
    if few < many:
        difference = np.mean([slopes[many, w] - slopes[few, w] for w in options.widths], axis=0)
        claims.append(
            Claim.over_seeds(
                difference,
                text=f"complexity: slopes are lower with {many} classes than with {few}",
                paper="-0.745 ± 0.122",
                side="below",
            )
        )
    if len(options.widths) > 1:
        logs = np.log2(options.widths)
        by_width = np.array([
            np.mean([slopes[c, w] for c in options.classes], 0) for w in options.widths
        ])
        claims.append(
            Claim.over_seeds(
                np.polyfit(logs, by_width, 1)[0],
                text="capacity: slopes rise with the width (per doubling)",
                paper="+0.220 ± 0.037 (single layer)",
                side="above",
            )
        )
    return claims


def _slopes(rows: Rows, group: str, width: int, options: AdversarialOptions) -> np.ndarray:
    """Slope of F / F(0) over eps by seed; layers by parameters, clean and attacked averaged."""
    weights = {0: 64 * width, 1: width * width}
    mine = [row for row in rows if row["group"] == group]
    found = []
    for seed in range(options.n_seeds):
        f = []
        for eps in options.budgets:
            chosen = [r for r in mine if r["seed"] == seed and r["x"] == round(eps, 6)]
            share = np.array([weights[r["layer"]] for r in chosen], dtype=float)
            f.append((share * np.array([r["features"] for r in chosen])).sum() / share.sum())
        base = f[options.budgets.index(0.0)]
        found.append(np.polyfit(options.budgets, np.array(f) / base, 1)[0])
    return np.array(found)


adversarial = Study(
    name="adversarial",
    Options=AdversarialOptions,
    question="Does adversarial training change the number of effective features?",
    x_name="eps of training and attack",
    score_name="test accuracy under attack",
    units=lambda options: crossed_units(options.classes, "classes", options.widths),
    measure=lambda options: partial(_unit, options),
    claims=_claims,
    interval=over_seeds("networks"),
    notes=lambda _: (
        "scikit-learn's digits stand in for MNIST, which would have to be downloaded.",
        "F of a network is the parameter-weighted mean of its layers; slopes are of F / F(0).",
        "Dictionaries have 4 times h latents: budgets within one width compare, widths do not.",
    ),
    extras=("clean accuracy", "layer", "attacked"),
)
"""Read adversarially trained networks of several sizes on tasks of several sizes."""
