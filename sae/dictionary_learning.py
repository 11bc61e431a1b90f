"""Plain dictionary learning as a reference: scikit-learn's online algorithm, coded by OMP.

Mairal et al. 2009 alternate sparse codes and a dictionary update; no encoder is learned. The dictionary
comes back as an `OmpSae`, so that everything that reads autoencoders reads it too.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..probes.errors import OptionError
from .omp import OmpOptions, OmpSae


def learn_dictionary(
    rows: Float[Tensor, "rows d"], *, d_sae: int, k: int, n_steps: int = 1000,
    batch_rows: int = 256, seed: int = 0,
) -> OmpSae:  # fmt: skip
    """Learn a dictionary with `sklearn.decomposition.MiniBatchDictionaryLearning`.

    Args:
        rows: Training rows; their mean becomes the decoder's bias.
        d_sae: Atoms.
        k: Active atoms of each row.
        n_steps: Mini-batches at most.
        batch_rows: Rows of a mini-batch.
        seed: Fixes initial atoms and order.

    Raises:
        OptionError: Fewer rows than atoms.
    """
    from sklearn.decomposition import MiniBatchDictionaryLearning

    if len(rows) < d_sae:
        raise OptionError(f"rows must be at least d_sae = {d_sae}, got {len(rows)}.")
    mean = rows.double().mean(0)
    epochs = max(n_steps * batch_rows // len(rows), 1)
    learner = MiniBatchDictionaryLearning(
        n_components=d_sae, batch_size=batch_rows, max_iter=epochs, fit_algorithm="lars",
        transform_algorithm="omp", transform_n_nonzero_coefs=k, random_state=seed,
    )  # fmt: skip
    learner.fit((rows - mean).cpu().numpy())
    sae = OmpSae(OmpOptions(d_in=rows.shape[1], d_sae=d_sae, k=k), seed=seed)
    with torch.no_grad():
        sae.W_dec.copy_(torch.from_numpy(learner.components_))
        sae.b_dec.copy_(mean)
        sae.normalise()
    return sae.eval()
