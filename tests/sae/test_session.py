from pathlib import Path

import numpy as np
import pytest
import torch

from fluoroscope.probes.batching import windows
from fluoroscope.probes.corpus import from_texts
from fluoroscope.probes.errors import OptionError, UnknownSiteError
from fluoroscope.probes.runfile import Provenance, create_run
from fluoroscope.sae import (
    ActivationsError,
    CheckpointError,
    DivergedError,
    Learner,
    LearnOptions,
    LiveRows,
    RunRows,
    SaeSpec,
    SaeTraining,
    ScheduleOptions,
    TensorRows,
    load_sae,
    train_saes,
)
from fluoroscope.sae.sources import order_seed
from tests.sae.planting import planted


def spec(architecture: str = "topk", n_steps: int = 40, **more) -> SaeSpec:
    options = {"d_sae": 48} | ({} if architecture in {"relu", "gated"} else {"k": 4})
    schedule = ScheduleOptions(n_steps=n_steps)
    learning = LearnOptions(schedule=schedule, learning_rate=3e-3)
    chosen = {"name": architecture, "site": "x", "options": options, "learning": learning}
    return SaeSpec(architecture=architecture, **(chosen | more))


def source(rows: torch.Tensor | None = None, batch_rows: int = 64, **more) -> TensorRows:
    if rows is None:
        rows = planted(n_rows=2000, d=16, p=32, k=3, noise=0.01)[0] * 7 + 1
    return TensorRows({"x": rows} | more, batch_rows=batch_rows)


ALL = ["topk", "batchtopk", "jumprelu", "matryoshka", "mp", "relu", "gated", "omp"]


def test_every_architecture_trains_in_one_pass_and_reads_raw_rows(tmp_path):
    rows = planted(n_rows=2000, d=16, p=32, k=3, noise=0.01)[0] * 7 + 1
    trained = train_saes(source(rows), [spec(name, 120) for name in ALL], folder=tmp_path)
    for name, found in trained.items():
        sae = load_sae(tmp_path / name)
        with torch.no_grad():
            out = sae(rows)
        fvu = float(
            (out.reconstruction - rows).square().sum() / (rows - rows.mean(0)).square().sum()
        )
        assert fvu < 0.9, name
        assert found.result.fvu[-1] < found.result.fvu[0], name
        assert torch.equal(sae.encode(rows[:9]), found.sae.encode(rows[:9]))
        assert sae.metadata["site"] == "x"


@pytest.mark.parametrize(
    ("names", "resample_every"),
    [(["topk", "mp"], None), (["batchtopk", "jumprelu"], None), (["relu", "gated"], 8)],
)
def test_going_on_from_a_checkpoint_is_bit_for_bit(tmp_path, names, resample_every):
    learning = LearnOptions(
        schedule=ScheduleOptions(n_steps=40), learning_rate=3e-3, resample_every=resample_every
    )
    specs = [spec(name, learning=learning) for name in names]
    whole = train_saes(source(), specs, folder=tmp_path / "a", checkpoint_every=15)

    def stop(done: int, total: int | None, note: str) -> None:
        if done == 33:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train_saes(source(), specs, folder=tmp_path / "b", checkpoint_every=15, progress=stop)
    seen = []
    again = train_saes(
        source(), specs, folder=tmp_path / "b", checkpoint_every=15,
        progress=lambda done, total, note: seen.append(done),
    )  # fmt: skip
    assert seen[0] == 31  # the crash cost three steps
    for name in names:
        for key, value in whole[name].sae.state_dict().items():
            assert torch.equal(value, again[name].sae.state_dict()[key]), key
        assert whole[name].result.loss.tolist() == again[name].result.loss.tolist()


def test_a_checkpoint_of_other_settings_or_damaged_is_refused(tmp_path):
    train_saes(source(), [spec()], folder=tmp_path, checkpoint_every=20)
    with pytest.raises(CheckpointError, match=r"schedule.n_steps was 40, is 50"):
        train_saes(source(), [spec(n_steps=50)], folder=tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        train_saes(source(), [spec()], folder=tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.full((100, 8), torch.nan), "hold NaN or infinity"),
        (torch.ones(100, 8), "do not vary"),
        (torch.zeros(100, 8), "do not vary"),
        (torch.randn(40, 8), "fewer than the 48 latents"),
        (torch.randn(100, 8, 2), "must be vectors"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused_at_once(rows, message, tmp_path):
    held = TensorRows.__new__(TensorRows)
    held._rows, held.sites, held.batch_rows, held._seed = {"x": rows}, ("x",), 16, 0
    held._n_rows = len(rows)
    with pytest.raises(ActivationsError, match=message):
        train_saes(held, [spec()], folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_that_go_bad_later_stop_the_training_and_keep_the_checkpoint(tmp_path):
    rows = planted(n_rows=2000, d=16, p=32, k=3)[0]

    class Spoiled(TensorRows):
        def batches(self, start=0):
            for number, batch in enumerate(super().batches(start)):
                yield {"x": batch["x"] * (torch.nan if number == 25 else 1)}

    with pytest.raises(ActivationsError, match="NaN or infinity"):
        train_saes(
            Spoiled({"x": rows}, batch_rows=64), [spec()], folder=tmp_path, checkpoint_every=10
        )
    assert (tmp_path / "checkpoint.pt").exists()


def test_weights_that_leave_the_finite_numbers_between_reports_are_not_kept(tmp_path, monkeypatch):
    step = Learner.step

    def spoiled(self, rows, target=None):
        found = step(self, rows, target)
        if self.step_count == 27:  # losses are looked at in step 26 and again in step 40
            with torch.no_grad():
                self.sae.W_enc.fill_(torch.nan)
        return found

    monkeypatch.setattr(Learner, "step", spoiled)
    with pytest.raises(DivergedError, match="not finite after step 30"):
        train_saes(source(), [spec()], folder=tmp_path, checkpoint_every=15)
    held = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["trainer"]
    assert held["step_count"] == 15
    assert not any(weight.isnan().any() for weight in held["learners"]["topk"]["sae"].values())


def test_long_rows_are_left_out():
    rows = planted(n_rows=2000, d=16, p=32, k=3)[0]
    with_giants = rows.clone()
    with_giants[::50] *= 1e4
    found = train_saes(source(with_giants), [spec()])["topk"].result
    plain = train_saes(source(rows), [spec()])["topk"].result
    assert abs(found.scale / plain.scale - 1) < 0.05
    assert found.n_rows < plain.n_rows


def test_a_transcoder_learns_from_two_sites(tmp_path):
    rows = planted(n_rows=2000, d=16, p=32, k=3)[0]
    target = torch.relu(rows @ torch.randn(16, 6, generator=torch.Generator().manual_seed(0))) * 30
    given = TensorRows({"x": rows, "y": target}, batch_rows=64)
    made = train_saes(given, [spec(n_steps=300, target_site="y")])["topk"]
    with torch.no_grad():
        out = made.sae(rows, target)
    fvu = (out.reconstruction - target).square().sum() / (target - target.mean(0)).square().sum()
    assert float(fvu) < 0.6
    assert made.result.target_site == "y"


def run_file(path: Path, rows: torch.Tensor):
    with create_run(path, provenance=Provenance(sites=("x",))) as writer:
        for number, part in enumerate(rows.split(100)):
            writer.append([f"d{number}"], [number], [torch.arange(len(part)).numpy()], {"x": part})
        writer.close()
    from fluoroscope.probes import open_run

    return open_run(path)


def test_rows_of_a_run_file_and_the_result_in_it(tmp_path):
    run = run_file(tmp_path / "r.h5", planted(n_rows=1000, d=16, p=32, k=3)[0])
    made = train_saes(RunRows(run, ["x"], batch_rows=100), [spec()])["topk"]
    run.add_result("sae_topk", made.result)
    again = run.result("sae_topk", SaeTraining)
    assert again.fvu.tolist() == made.result.fvu.tolist()
    assert again.options["k"] == 4
    with pytest.raises(UnknownSiteError, match="holds no rows of 'z'"):
        RunRows(run, ["z"], batch_rows=10)
    with pytest.raises(OptionError, match="batch_rows must be from 1 to the 1,000"):
        RunRows(run, ["x"], batch_rows=1001)


def test_batches_of_a_run_file_begin_anywhere_and_ranks_share_them(tmp_path):
    run = run_file(tmp_path / "r.h5", torch.arange(1000.0)[:, None].repeat(1, 2))
    every = RunRows(run, ["x"], batch_rows=100).batches()
    first = [next(every)["x"][:, 0] for _ in range(25)]
    for start in (3, 10, 17):
        later = RunRows(run, ["x"], batch_rows=100).batches(start)
        assert torch.equal(next(later)["x"][:, 0], first[start])
    halves = [RunRows(run, ["x"], batch_rows=100, rank=r, n_ranks=2).batches() for r in (0, 1)]
    shared = torch.cat([next(half)["x"][:, 0] for _ in range(5) for half in halves])
    assert shared.sort().values.tolist() == list(range(1000))


def test_no_two_seeds_and_epochs_share_an_order(tmp_path):
    """Seed 1 at epoch 0 is not seed 0 at epoch 1, and a seed of several words is no epoch."""
    rows = torch.arange(600.0)[:, None].repeat(1, 2)
    run = run_file(tmp_path / "r.h5", rows)

    def orders(source: TensorRows | RunRows) -> list[tuple[float, ...]]:
        batches = source.batches()
        epochs = [torch.cat([next(batches)["x"][:, 0] for _ in range(3)]) for _ in range(4)]
        assert all(sorted(order.tolist()) == rows[:, 0].tolist() for order in epochs)
        return [tuple(order.tolist()) for order in epochs]

    seeds = (0, 1, 2, 3, 2**32, 2**32 + 1, 2**33)
    for make in (
        lambda seed: TensorRows({"x": rows}, batch_rows=200, seed=seed),
        lambda seed: RunRows(run, ["x"], batch_rows=200, seed=seed),
    ):
        found = [order for seed in seeds for order in orders(make(seed))]
        assert len(set(found)) == 4 * len(seeds)
        assert orders(make(3)) == orders(make(3))
    pairs = [order_seed(seed, epoch) for seed in (*range(50), 2**32, 2**64) for epoch in range(50)]
    states = {np.random.SeedSequence(pair).generate_state(4).tobytes() for pair in pairs}
    assert len(states) == len(pairs)


def test_live_rows_mix_texts_and_go_on_bit_for_bit(tiny_llama, tmp_path):
    texts = from_texts([f"text {n} " * (6 + n % 3) for n in range(40)])
    found = windows(tiny_llama, texts, context=32)
    site = "layers.0.resid_post"

    def live() -> LiveRows:
        return LiveRows(tiny_llama, found, [site], batch_rows=64, buffer_rows=512, batch_tokens=128)

    specs = [spec(site=site, n_steps=20)]
    whole = train_saes(live(), specs, folder=tmp_path / "a")

    def stop(done: int, total: int | None, note: str) -> None:
        if done == 13:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train_saes(live(), specs, folder=tmp_path / "b", checkpoint_every=6, progress=stop)
    again = train_saes(live(), specs, folder=tmp_path / "b", checkpoint_every=6)
    for key, value in whole["topk"].sae.state_dict().items():
        assert torch.equal(value, again["topk"].sae.state_dict()[key]), key
    with pytest.raises(OptionError, match="buffer_rows"):
        LiveRows(tiny_llama, found, [site], batch_rows=64, buffer_rows=64)
