"""Rows read through the layers: against plain forward passes, and against the trace's own numbers."""

import json

import numpy as np
import pytest
import torch

from fluoroscope.decoding import Stopping, make_engine, save_generations
from fluoroscope.decoding.generation import Generation
from fluoroscope.decoding.row_readings import node_rows, read_rows
from fluoroscope.decoding.rowlog import ROW_KINDS
from fluoroscope.probes import Model, Provenance, capture, create_run, open_run
from fluoroscope.probes.runfile.h5 import array, subgroup

PROMPTS = ["abcabcabcabc abc", "xyxyxyxyx"]


def decoded(model: Model, engine: str, sites: str = "layers.*.resid_post") -> list[Generation]:
    whole = {} if engine == "plain" else {"thrifty": False}
    made = make_engine(model, engine, **whole)
    rules = Stopping(max_new_tokens=24, ignore_eos=True)
    return made.generate(PROMPTS, stopping=rules, sites=[sites])


@pytest.mark.parametrize("engine", ["plain", "prompt-lookup", "token-recycling"])
def test_rows_are_those_of_plain_forward_passes(tiny_llama: Model, engine: str) -> None:
    """Committed rows equal a pass over the text; a refused one, a pass over the text and its path."""
    for made in decoded(tiny_llama, engine):
        read = read_rows(tiny_llama, made)
        assert read is not None
        assert read.n_left_out == 0
        text = [*made.prompt_ids, *made.token_ids]
        nodes = [(s, n) for s, step in enumerate(made.trace.steps) for n in step.nodes]
        emitted = np.cumsum([0, *(len(step.emitted) for step in made.trace.steps)])
        committed = read.position[read.node < 0]
        assert committed.tolist() == list(range(len(made.prompt_ids) - 1, len(text)))
        refused = [number for number, (_, node) in enumerate(nodes) if not node.accepted]
        assert sorted(read.node[read.node >= 0].tolist()) == refused
        for row in [0, 1, *np.flatnonzero(read.node >= 0)[:6]]:
            number = int(read.node[row])
            path = text[: read.position[row] + 1]
            if number >= 0:
                step, node = nodes[number]
                tail = [node.token]
                while node.parent >= 0:
                    node = made.trace.steps[step].nodes[node.parent]
                    tail.insert(0, node.token)
                path = [*text[: len(made.prompt_ids) + emitted[step]], *tail]
            with capture(tiny_llama, "layers.*.resid_post") as acts:
                logits = tiny_llama(torch.tensor([path])).logits[0, -1]
            norms = [acts[f"layers.{layer}.resid_post"][0, -1].norm() for layer in read.layers]
            np.testing.assert_allclose(read.norm[row], norms, rtol=1e-4)
            shares = logits.softmax(-1)
            np.testing.assert_allclose(
                read.top_probs[row, -1], shares.topk(3).values.detach(), rtol=1e-3
            )
            if number >= 0:
                assert read.entropy[row, -1] == pytest.approx(nodes[number][1].entropy, abs=1e-3)


def test_the_last_layer_says_what_the_trace_says(tiny_llama: Model) -> None:
    for made in decoded(tiny_llama, "prompt-lookup"):
        read = read_rows(tiny_llama, made)
        assert read is not None
        deciding = np.flatnonzero(read.node < 0)[:-1]
        tokens = made.trace.tokens
        assert read.top_ids[deciding, -1].tolist() == [list(t.top_ids[:3]) for t in tokens]
        np.testing.assert_allclose(
            read.entropy[deciding, -1], [t.entropy for t in tokens], atol=1e-3
        )


def test_few_rows_are_the_ones_that_decided(tiny_llama: Model) -> None:
    made = decoded(tiny_llama, "token-recycling")[0]
    n_text = len(made.token_ids) + 1
    read = read_rows(tiny_llama, made, max_rows=n_text + 2)
    assert read is not None
    nodes = [(step, node) for step in made.trace.steps for node in step.nodes]
    assert len(read.position) == n_text + 2
    assert (read.node < 0).sum() == n_text
    for number in read.node[read.node >= 0]:
        step, node = nodes[number]
        assert node.parent < 0 or step.nodes[node.parent].accepted
        assert ROW_KINDS[read.kind[np.flatnonzero(read.node == number)[0]]] == "rejected"
    assert read.n_left_out == sum(not node.accepted for _, node in nodes) - 2 > 0


def test_what_cannot_be_read_is_left_out(tiny_llama: Model) -> None:
    made = decoded(tiny_llama, "plain", sites="embed")[0]
    assert read_rows(tiny_llama, made) is None
    assert node_rows(made).tolist() == []


def test_rows_stand_in_the_run_file_counted_over_prompts(tiny_llama: Model, tmp_path) -> None:
    made = decoded(tiny_llama, "prompt-lookup")
    with create_run(tmp_path / "r.h5", provenance=Provenance()) as writer:
        writer.close()
    run = open_run(tmp_path / "r.h5")
    told: list[tuple[int, int]] = []
    engine = make_engine(tiny_llama, "prompt-lookup")
    save_generations(
        run, engine, made, keep_states=False, progress=lambda done, of, _: told.append((done, of))
    )
    n_layers = tiny_llama.n_layers
    assert told[:n_layers] == [(n + 1, n_layers) for n in range(n_layers)]
    with run.reading() as file:
        group = subgroup(file, "trace/prompt-lookup")
        rows = subgroup(group, "rows")
        assert json.loads(rows.attrs["kinds"]) == list(ROW_KINDS)
        assert "states" not in group
        node, prompt = array(rows, "node"), array(rows, "prompt")
        assert set(prompt.tolist()) == {0, 1}
        told_node = node >= 0
        accepted = array(group, "nodes/accepted")
        assert not accepted[node[told_node]].any()
        steps = array(group, "steps/prompt")[array(group, "nodes/step")]
        assert steps[node[told_node]].tolist() == prompt[told_node].tolist()
        np.testing.assert_allclose(
            rows["entropy"][()][told_node, -1],
            group["nodes/entropy"][()][node[told_node]],
            atol=1e-3,
        )
        assert rows["top_ids"].shape == (len(node), n_layers, 3)
