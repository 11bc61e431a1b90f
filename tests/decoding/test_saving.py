"""Traces in the run file: every row of every table, against the objects they came from."""

import json

import h5py
import numpy as np
import pytest
import torch

from fluoroscope.decoding import Stopping, make_engine, save_generations
from fluoroscope.decoding.trace import (
    KINDS,
    N_CANDIDATES,
    Emitted,
    Node,
    Step,
    Trace,
    describe,
    save_traces,
)
from fluoroscope.probes import Provenance, create_run, open_run
from fluoroscope.probes.errors import OptionError


def emitted(token: int, kind: str) -> Emitted:
    return Emitted(
        id=token, kind=kind, prob=token / 10, entropy=token / 5, rank=token % 3,
        top_ids=tuple(range(token, token + N_CANDIDATES)), top_probs=(0.5, 0.2, 0.1, 0.1, 0.05),
    )  # fmt: skip


def node(token: int, parent: int, depth: int, *, accepted: bool, source: str = "model") -> Node:
    return Node(
        token=token, parent=parent, depth=depth, draft_prob=0.25, target_prob=0.75,
        entropy=token / 2, accepted=accepted, source=source,
    )  # fmt: skip


@pytest.fixture
def traces() -> list[Trace]:
    """Two prompts: the first with a drafted step of three nodes, then a plain one; the second plain."""
    nodes = (
        node(1, -1, 1, accepted=True),
        node(2, 0, 2, accepted=True),
        node(9, 0, 2, accepted=False, source="n-gram"),
    )
    drafted = Step(
        emitted=(emitted(1, "accepted"), emitted(2, "accepted"), emitted(3, "bonus")),
        nodes=nodes, seconds=0.6, seconds_draft=0.1, seconds_verify=0.4,
    )  # fmt: skip
    plain = Step(emitted=(emitted(4, "plain"),), seconds=0.5)
    last = Step(
        emitted=(emitted(5, "correction"),), nodes=(node(8, -1, 1, accepted=False),), seconds=0.2
    )
    return [Trace([drafted, plain]), Trace([last])]


def test_every_row_is_where_the_schema_says(traces: list[Trace]) -> None:
    with h5py.File("trace", "w", driver="core", backing_store=False) as file:
        group = file.create_group("trace/x")
        ids = [np.array([50, 51]), np.array([52])]
        about = {"engine": "x", "lossless": 1, "options": {"seed": 2}}
        save_traces(group, ["ab", "c\x00"], ids, traces, about)
        read = lambda name: group[name][()].tolist()  # noqa: E731
        assert read("tokens/id") == [1, 2, 3, 4, 5]
        assert read("tokens/prompt") == [0, 0, 0, 0, 1]
        assert read("tokens/step") == [0, 0, 0, 1, 2]
        assert read("tokens/position") == [2, 3, 4, 5, 1]
        assert [KINDS[kind] for kind in read("tokens/kind")] == [
            "accepted", "accepted", "bonus", "plain", "correction",
        ]  # fmt: skip
        np.testing.assert_allclose(read("tokens/seconds"), [0.2, 0.2, 0.2, 0.5, 0.2])
        np.testing.assert_allclose(read("tokens/prob"), [0.1, 0.2, 0.3, 0.4, 0.5])
        np.testing.assert_allclose(read("tokens/entropy"), [0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-6)
        assert read("tokens/rank") == [1, 2, 0, 1, 2]
        assert read("tokens/top_ids")[4] == [5, 6, 7, 8, 9]
        assert group["tokens/top_probs"].shape == (5, N_CANDIDATES)
        assert read("steps/prompt") == [0, 0, 1]
        assert read("steps/n_drafted") == [3, 0, 1]
        assert read("steps/n_accepted") == [2, 0, 0]
        assert read("steps/n_emitted") == [3, 1, 1]
        np.testing.assert_allclose(read("steps/seconds"), [0.6, 0.5, 0.2])
        np.testing.assert_allclose(read("steps/seconds_draft"), [0.1, 0, 0])
        np.testing.assert_allclose(read("steps/seconds_verify"), [0.4, 0, 0])
        assert read("nodes/step") == [0, 0, 0, 2]
        assert read("nodes/token") == [1, 2, 9, 8]
        assert read("nodes/parent") == [-1, 0, 0, -1]
        assert read("nodes/depth") == [1, 2, 2, 1]
        assert read("nodes/accepted") == [True, True, False, False]
        assert read("nodes/entropy") == [0.5, 1.0, 4.5, 4.0]
        sources = json.loads(group["nodes"].attrs["sources"])
        assert [sources[one] for one in read("nodes/source")] == [
            "model",
            "model",
            "n-gram",
            "model",
        ]
        assert read("nodes/draft_prob") == [0.25] * 4
        assert read("nodes/target_prob") == [0.75] * 4
        assert read("prompts/offsets") == [0, 2, 3]
        assert read("prompts/ids") == [50, 51, 52]
        assert group["prompts/text"].asstr()[()].tolist() == ["ab", "c\\x00"]
        assert json.loads(group.attrs["options"]) == {"seed": 2}
        assert json.loads(group.attrs["kinds"]) == list(KINDS)
        assert group["tokens/entropy"].attrs["unit"] == "nats"
        assert group["steps/seconds"].attrs["unit"] == "s"


def test_a_trace_counts_its_tokens(traces: list[Trace]) -> None:
    assert [token.id for token in traces[0].tokens] == [1, 2, 3, 4]
    assert traces[0].steps[0].n_accepted == 2


def test_a_token_is_described_by_the_targets_own_distribution() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.125, 0.125, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]])
    sure, certain = describe(probs.log(), [1, 2], kinds=["plain", "bonus"])
    assert (sure.id, sure.kind, sure.rank) == (1, "plain", 1)
    assert sure.prob == pytest.approx(0.25)
    assert sure.entropy == pytest.approx(1.75 * np.log(2))
    assert sure.top_ids[:2] == (0, 1)
    assert sure.top_probs[:2] == pytest.approx((0.5, 0.25))
    assert len(sure.top_ids) == N_CANDIDATES
    assert (certain.rank, certain.entropy, certain.kind) == (0, 0.0, "bonus")


def test_outcomes_and_states_stand_beside_the_trace(tiny_llama, tmp_path) -> None:
    engine = make_engine(tiny_llama, "plain", temperature=0.5, seed=4)
    rules = Stopping(max_new_tokens=3, ignore_eos=True)
    made = engine.generate(["ab", "c"], stopping=rules, sites=["embed", "layers.0.resid_post"])
    with create_run(tmp_path / "r.h5", provenance=Provenance()) as writer:
        writer.close()
    run = open_run(tmp_path / "r.h5")
    with pytest.raises(OptionError, match="at least one generation"):
        save_generations(run, engine, [])
    save_generations(run, engine, made)
    with run.reading() as file:
        group = file["trace/plain"]
        assert group["generations/text"].asstr()[()].tolist() == [g.text for g in made]
        assert group["generations/stop_reason"].asstr()[()].tolist() == ["max_new_tokens"] * 2
        assert group["generations/n_forward"][()].tolist() == [g.stats.n_forward for g in made]
        np.testing.assert_allclose(group["generations/seconds"], [g.stats.seconds for g in made])
        assert group["states/offsets"][()].tolist() == [0, 5, 9]
        for site in ("embed", "layers.0.resid_post"):
            stored = group[f"states/{site}"]
            expected = torch.cat([g.states(site) for g in made]).numpy()
            np.testing.assert_array_equal(stored[()], expected)
            assert stored.attrs["dtype"] == "float32"
        assert group.attrs["engine"] == "plain"
        assert group.attrs["lossless"] == 1
        assert group.attrs["model"] == "tiny llama"
        assert json.loads(group.attrs["options"])["temperature"] == 0.5
