"""Two processes that share the batches learn what one does."""

import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = """
import sys, torch, torch.distributed as dist
from fluoroscope.sae import Learner, LearnOptions, ScheduleOptions, make_sae
name, rank, world, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
sae = make_sae(name, d_in=12, d_sae=64, k=4)
learner = Learner(sae, LearnOptions(schedule=ScheduleOptions(n_steps=12), learning_rate=0.01))
for step in range(12):
    x = torch.randn(64, 12, generator=torch.Generator().manual_seed(step))
    learner.step(x.chunk(world)[rank])
torch.save(learner.state_dict(), f"{folder}/{world}-{rank}.pt")
if world > 1:
    dist.destroy_process_group()
"""


def run(name: str, world: int, folder: Path) -> list[dict]:
    command = [sys.executable, "-c", SCRIPT, name]
    started = [
        subprocess.Popen([*command, str(rank), str(world), str(folder)]) for rank in range(world)
    ]
    assert [process.wait(timeout=250) for process in started] == [0] * world
    return [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)]


def test_two_processes_learn_what_one_does(tmp_path):
    (alone,) = run("topk", 1, tmp_path)
    first, second = run("topk", 2, tmp_path)
    assert torch.equal(first["rows_since_fired"], second["rows_since_fired"])
    assert first["n_rows"] == alone["n_rows"]
    for name, value in alone["sae"].items():
        assert torch.equal(first["sae"][name], second["sae"][name]), name
        torch.testing.assert_close(first["sae"][name], value, atol=2e-4, rtol=1e-3)
