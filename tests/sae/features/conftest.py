from pathlib import Path

import pytest
import torch

from fluoroscope.probes import Run, capture_corpus, from_texts, wrap_model
from fluoroscope.sae.metrics import RandomDecoder
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

SITE = "layers.1.resid_post"


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    model = wrap_model(tiny_module("llama"), byte_tokenizer(), name="tiny llama")
    texts = [f"def f{n}(x):\n    return x + {n}  # number {n}\n" * 3 for n in range(12)]
    path = tmp_path_factory.mktemp("run") / "run.h5"
    return capture_corpus(model, from_texts(texts, "texts"), SITE, path, context=64)


@pytest.fixture(scope="session")
def rows(tiny_run: Run) -> torch.Tensor:
    return tiny_run.activations[SITE].read().float()


@pytest.fixture(scope="session")
def dictionary(rows: torch.Tensor) -> RandomDecoder:
    return RandomDecoder(rows, 48, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.h5"
