import pytest
import torch

from fluoroscope.probes.errors import OptionError
from fluoroscope.sae import LearnOptions, Member, ScheduleOptions, Trainer, make_sae
from tests.sae.planting import matched_cosine, planted


def options(n_steps: int, rate: float = 3e-3) -> LearnOptions:
    return LearnOptions(schedule=ScheduleOptions(n_steps=n_steps), learning_rate=rate)


def batches(rows: torch.Tensor, n: int, size: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        yield rows[torch.randint(len(rows), (size,), generator=generator)]


def test_topk_recovers_a_planted_dictionary():
    rows, atoms = planted(n_rows=20_000, d=32, p=64, k=3)
    sae = make_sae("topk", d_in=32, d_sae=64, k=3)
    trainer = Trainer({"a": Member(sae, options(800))})
    reports = trainer.fit(batches(rows, 800, 256))["a"]
    assert reports[-1].fvu < 0.05
    assert matched_cosine(sae.W_dec.detach(), atoms) > 0.95


def test_members_must_agree_on_the_number_of_steps():
    made = [Member(make_sae("topk", d_in=4, d_sae=8, k=2), options(n)) for n in (3, 4)]
    with pytest.raises(OptionError, match="same n_steps"):
        Trainer({"a": made[0], "b": made[1]})
