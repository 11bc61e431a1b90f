"""Training: the same run whether or not it was interrupted."""

import pytest
import torch

from fluoroscope.moe.moex.training import IGNORED, TrainOptions, _optimizer, train
from fluoroscope.probes.errors import OptionError, RunMismatchError
from tests.families import tiny_module

OPTIONS = TrainOptions(steps=8, n_rows=2, warmup=2, keep_every=3)


def rows() -> torch.Tensor:
    made = torch.randint(0, 256, (10, 12), generator=torch.Generator().manual_seed(0))
    made[:, 9:] = IGNORED
    return made


@pytest.mark.parametrize("family", ["moex", "gpt2"])
def test_an_interrupted_run_ends_where_a_whole_one_does(family: str, tmp_path) -> None:
    still = (
        {} if family == "moex" else dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    )
    whole = tiny_module(family, **still)
    losses = train(whole, rows(), OPTIONS)
    parts, file = tiny_module(family, **still), tmp_path / "c.pt"

    class Stop(Exception):
        pass

    def stop(done: int, total: int, note: str) -> None:
        if done == 5:
            raise Stop

    with pytest.raises(Stop):
        train(parts, rows(), OPTIONS, checkpoint=file, progress=stop)
    again = train(tiny_module(family, seed=3, **still), rows(), OPTIONS, checkpoint=file)
    assert len(again) == len(losses) == 8
    assert again == pytest.approx(losses, rel=1e-4)
    with pytest.raises(RunMismatchError, match="other options"):
        train(parts, rows(), TrainOptions(steps=9, n_rows=2), checkpoint=file)


def test_padding_is_neither_learned_from_nor_balanced() -> None:
    a, b = rows(), rows()[:, :9]
    one, two = tiny_module("moex"), tiny_module("moex")
    for module in (one, two):
        module.config.balance_coefficient = 10.0
    options = TrainOptions(steps=2, n_rows=2)
    assert train(one, a, options) == pytest.approx(train(two, b, options), rel=1e-4)


@pytest.mark.parametrize("family", ["moex", "gpt2"])
def test_no_bias_decays_whatever_its_shape(family: str) -> None:
    module = tiny_module(family)
    decayed, rest = _optimizer(module, OPTIONS).param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    kept = {names[id(parameter)] for parameter in rest["params"]}
    assert kept == {n for n in names.values() if n.endswith("bias") or ".ln_" in n}
    assert len(kept) + len(decayed["params"]) == len(names)


def test_every_row_comes_once_an_epoch() -> None:
    from fluoroscope.moe.moex.training import _drawn

    drawn = torch.cat([_drawn(10, OPTIONS, step) for step in range(5)])
    assert sorted(drawn.tolist()) == list(range(10))
    assert not torch.equal(_drawn(10, OPTIONS, 0), _drawn(10, OPTIONS, 5))


def test_the_rate_warms_up_and_ends_at_a_tenth() -> None:
    options = TrainOptions(steps=100, warmup=10, peak=1e-3)
    assert options.rate(9) == pytest.approx(1e-3)
    assert options.rate(0) == pytest.approx(1e-4)
    assert options.rate(100) == pytest.approx(1e-4)
    with pytest.raises(OptionError):
        TrainOptions(steps=0)
