"""A small transformer that learned an order-2 chain, and a run file of its states."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fluoroscope.probes import Model, Provenance, Run, capture, create_run, open_run
from fluoroscope.probes.information.sources import Chain, random_chain
from fluoroscope.probes.information.toys import ToyOptions, train_toy

N_DOCUMENTS, LENGTH = 400, 32  # as long as the documents it is trained on


@dataclass(frozen=True)
class Toy:
    """A source, a model of it, and a run of the model on fresh documents."""

    chain: Chain
    model: Model
    run: Run


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    chain = random_chain(5, 2, concentration=0.3, seed=0)
    model = train_toy(chain, ToyOptions(n_steps=250))
    ids = chain.sample(N_DOCUMENTS, LENGTH, seed=99)
    with torch.no_grad(), capture(model, "layers.*.resid_post") as acts:
        model(torch.from_numpy(ids), use_cache=False)
    sites = [f"layers.{layer}.resid_post" for layer in range(model.n_layers)]
    provenance = Provenance(
        model=model.info.as_dict(), corpus={"digest": "a chain"}, sites=tuple(sites), settings={}
    )
    path = tmp_path_factory.mktemp("toy") / "run.h5"
    with create_run(path, provenance=provenance) as writer:
        writer.append(
            [f"d{number}" for number in range(N_DOCUMENTS)],
            list(range(N_DOCUMENTS)),
            list(ids.astype(np.int32)),
            {site: acts[site].flatten(0, 1) for site in sites},
        )
        writer.close()
    return Toy(chain, model, open_run(path))
