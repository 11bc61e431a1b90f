"""What sections say: readings, verdicts, tiles and tables, from numbers made by hand."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from markupsafe import Markup

from fluoroscope.probes import (
    Provenance,
    capture_corpus,
    create_run,
    from_texts,
    open_run,
    wrap_model,
)
from fluoroscope.probes.vocabulary import Vocabulary
from fluoroscope.reports.page import render
from fluoroscope.reports.section import Context, Section, Stored
from fluoroscope.reports.sections.generic import generic
from fluoroscope.reports.sections.layers import layer_stats, next_token, self_check
from fluoroscope.reports.sections.lens import lens
from fluoroscope.reports.sections.massive import ablation_story, massive_activations
from fluoroscope.reports.sections.probes import linear_probe
from fluoroscope.reports.sections.sinks import attention_sinks
from fluoroscope.reports.sections.trace import traces
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

WORDS = Vocabulary((b" the", b"\n", b"cat", b"<eos>"), frozenset({3}))


class Macro:
    """Stands in for the templates and keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []

    def __call__(self, template: str, name: str, arguments: dict[str, Any]) -> Markup:
        self.given.append(arguments)
        return Markup("<p></p>")


@pytest.fixture
def context(run_path: Path) -> Context:
    """Tokens of a small vocabulary; macros keep what they were given."""
    return Context(open_run(run_path), WORDS, Macro())


def stored(kind: str, **values: Any) -> Stored:
    return Stored(kind, kind, values)


def by_id(section: Section, ending: str) -> Any:
    return next(figure for figure in section.figures if figure.id.endswith(ending))


def test_norms_say_where_the_stream_begins_and_ends(context: Context) -> None:
    nothing = np.full(3, np.nan)
    section = layer_stats(
        stored("layer_stats", layers=np.arange(3), resid=np.array([5.0, 8.0, 1234.0]),
               attention=nothing, mlp=np.array([1.0, 2.0, 3.0]), n_documents=2, n_tokens=9),
        context,
    )  # fmt: skip
    (figure,) = section.figures
    assert "From 5 after the first layer to 1,234 after the last" in figure.reading
    assert list(figure.data) == ["layer", "stream after the layer", "what the MLP adds"]
    assert figure.data["what the MLP adds"] == [1.0, 2.0, 3.0]


def next_token_of(loss: float, entropy: float, n: int = 3) -> Stored:
    return stored(
        "next_token", loss=loss, loss_low=1.9, loss_high=2.6, entropy=entropy, top1=0.4567,
        position=np.arange(n), loss_by_position=np.arange(n, dtype=float),
        entropy_by_position=np.ones(n), n_by_position=np.array([*[4] * (n - 1), 2]),
        n_tokens=10, n_documents=4,
    )  # fmt: skip


def test_confidence_is_read_off_loss_against_entropy(context: Context) -> None:
    over = next_token(next_token_of(2.5, 2.0), context)
    assert "overconfident by 0.50 nats" in over.figures[0].reading
    under = next_token(next_token_of(2.0, 2.25), context)
    assert "underconfident by 0.25 nats" in under.figures[0].reading
    assert "Loss 2.00 nats (1.90 to 2.60)" in under.figures[0].reading
    assert [tile.value for tile in over.tiles] == ["2.50 nats", "46%"]
    assert over.figures[0].data["position"] == [0, 1], "positions with under 3 texts are left out"
    long = next_token(next_token_of(2.0, 2.0, n=300), context).figures[0]
    assert long.notes == ("means over 4 positions are drawn; the table has every position",)
    assert len(long.data["position"]) == 299


def test_the_self_check_has_one_row_per_kind_with_its_worst(context: Context) -> None:
    section = self_check(
        stored("self_check", checks=np.array(["layers.0.mlp.out", "layers.11.mlp.out", "logits"]),
               errors=np.array([1e-7, 3e-6, 0.0]), tolerance=2e-4, sites=np.array(["a"] * 5)),
        context,
    )  # fmt: skip
    (figure,) = section.figures
    assert figure.data["compared"] == ["layers.*.mlp.out", "logits"]
    assert figure.data["comparisons"] == [2, 1]
    assert figure.data["largest relative error"] == [3e-6, 0.0]
    assert figure.data["at"] == ["layers.11.mlp.out", "logits"]
    assert "All 3 comparisons hold" in figure.reading
    assert "3.0e-06 at layers.11.mlp.out (allowed: 2e-04)" in figure.reading


def lens_of(agreement: list[float], kind: str = "logit_lens") -> Stored:
    n = len(agreement)
    shares = np.array(agreement)
    top = np.zeros((n, 2, 1), dtype=int)
    top[1:, 0, 0] = 2  # the first position settles at layer 1, the second at layer n - 1
    top[-1, 1, 0] = 2
    return stored(
        kind, layers=np.arange(n), kl=np.linspace(9, 0, n), kl_low=np.zeros(n), kl_high=np.ones(n),
        agreement=shares, agreement_low=shares, agreement_high=shares, loss=np.ones(n),
        entropy=np.ones(n), rank=np.ones(n), n_tokens=5, n_documents=2, example_name="a text",
        example_ids=np.array([0, 2]), example_top_ids=top, example_top_probs=np.full((n, 2, 1), 0.5),
        example_entropy=np.full((n, 2), 2.0), example_kl=np.full((n, 2), 3.0),
        example_rank=np.array([[7, -1]] * n),
    )  # fmt: skip


def test_a_lens_says_from_which_layer_on_it_agrees(context: Context) -> None:
    section = lens(lens_of([0.1, 0.2, 0.5, 0.7, 1.0]), context)
    assert (
        section.verdict == "Through the logit lens half of the final choices stand from layer 2 on."
    )
    assert by_id(section, "agreement").reading == (
        "10% after the first layer, 50% after layer 2, 70% before the last."
    )
    assert by_id(section, "kl").reading.startswith("9.00 nats after the first layer")
    none = lens(lens_of([0.1, 0.2, 0.3], "tuned_lens"), context)
    assert none.verdict == (
        "Through the tuned lens no layer before the last shares half of the final choices."
    )
    assert none.title == "Tuned lens"
    grid = by_id(section, "grid")
    assert "first leads at layer 2 (median over 2 positions)" in grid.reading
    assert grid.data["final choice"] == ["cat", "cat"]


def test_the_grid_has_the_last_layer_on_top_and_tells_each_cell(context: Context) -> None:
    lens(lens_of([0.1, 0.2, 1.0]), context)
    (given,) = context.macros.given  # type: ignore[attr-defined]
    assert [row["layer"] for row in given["rows"]] == [2, 1, 0]
    assert given["input"] == ["·the", "cat"]
    cell, other = given["rows"][2]["cells"]
    assert cell["tip"] == (
        "layer 0, after ·the (position 0): ·the 50%; entropy 2.00 nats; KL to final 3.00 nats; the "
        "token that came ranks 7"
    )
    assert "ranks" not in other["tip"], "what follows the last token is not known"
    assert cell["levels"] == {"probability": 4, "entropy": 6, "kl": 6}


def massive_of(**changes: Any) -> Stored:
    values: dict[str, Any] = {
        "layers": np.arange(3), "top": np.array([[2.0, 1, 1], [900.0, 5, 4], [500.0, 5, 4]]),
        "median": np.array([1.0, 2.0, 4.0]), "n_documents": 2, "n_tokens": 20, "absolute": 100.0,
        "ratio": 1000.0, "writer_layer": 1, "writer_channel": 7, "writer_mlp": 1000.0,
        "writer_attention": 11.0, "writer_neurons": np.array([40, 41, 42]),
        "writer_contributions": np.array([700.0, 260.0, 40.0]),
        "event_value": np.array([900.0, 500.0]), "event_token": np.array([0, 1]),
        "event_position": np.array([0, 3]), "event_channel": np.array([7, 5]),
        "event_first_layer": np.array([1, 1]), "event_last_layer": np.array([2, 1]),
        "event_document": np.array(["a", "b"]), "n_events": 2,
        "map_channels": np.array([5, 7]), "map_values": np.array([[1.0, 900.0], [2.0, 3.0]]),
    }  # fmt: skip
    return stored("massive_activations", **values | changes)


def test_massive_activations_name_value_place_and_writers(context: Context) -> None:
    section = massive_activations(massive_of(), context)
    assert section.verdict == (
        "The residual stream is dominated by one number: 900 in dimension 7 at position 0, written in "
        "layer 1 by MLP neurons 40 (70%) and 41 (26%)."
    )
    assert by_id(section, "profile").reading == (
        "The largest value is 900 after layer 1, 450 times the median size there."
    )
    events = by_id(section, "events")
    assert events.reading == "1 of 2 stand at the first token; dimensions: 5, 7."
    assert events.data["dimension"] == [7, 5]
    assert events.data["token"] == ["·the", "\\n"]
    assert events.data["from layer"] == [1, 1]
    assert events.data["to layer"] == [2, 1]
    assert "all listed" in events.n
    assert by_id(section, "map").reading.startswith("The largest, 900, stands at position 0 in dim")
    assert by_id(section, "map").data["dim 7"] == [900.0, 3.0]
    assert by_id(section, "writers").data == {
        "neuron": ["40", "41", "42"], "adds": [700.0, 260.0, 40.0],
    }  # fmt: skip
    by_attention = massive_of(writer_mlp=10.0, writer_contributions=np.array([0.1, 0.1, 0.0]))
    assert massive_activations(by_attention, context).verdict.endswith("by attention.")
    one = massive_of(writer_contributions=np.array([990.0, 5.0, 5.0]))
    assert "by MLP neuron 40 (99%)." in massive_activations(one, context).verdict
    nothing = massive_activations(massive_of(writer_layer=-1), context)
    assert nothing.verdict == "No massive activation in 2 documents."
    assert nothing.tiles == ()


def test_the_ablation_story_compares_what_is_with_what_falls(context: Context) -> None:
    section = ablation_story(
        stored("ablation_story", conditions=np.array(["nothing", "neurons 1 and 2", "2 random others"]),
               n_neurons=np.array([0, 2, 2]), largest=np.array([900.0, 50.0, 899.0]),
               sink_mass=np.array([0.5, 0.1, 0.49]), sink_mass_low=np.zeros(3),
               sink_mass_high=np.ones(3), loss=np.array([2.0, 3.0, 2.01]), loss_low=np.zeros(3),
               loss_high=np.ones(3), n_documents=2, n_tokens=10, layer=11),
        context,
    )  # fmt: skip
    assert section.verdict == (
        "Zeroing neurons 1 and 2 takes the largest activation from 900 to 50, attention to the first "
        "token from 0.50 to 0.10 and the loss from 2.00 to 3.00 nats; 2 random others change it to "
        "2.01."
    )
    assert "MLP neurons of layer 11" in section.intro
    assert by_id(section, "loss").reading.startswith(
        "2.00 nats with nothing zeroed, 3.00 nats with"
    )
    assert by_id(section, "sink-mass").data["attention to first token"] == [0.5, 0.1, 0.49]


def test_sinks_count_heads_and_find_the_second_sink(context: Context) -> None:
    rate = np.zeros(12)
    rate[0], rate[3], rate[11] = 0.75, 0.0625, 0.5
    section = attention_sinks(
        stored("attention_sinks", n_texts=4, window=12, epsilon=0.3, source="recomputed",
               mass=np.array([0.2, 0.81, 0.35]), mass_low=np.zeros(3), mass_high=np.ones(3),
               virtual=np.zeros(3), entropy=np.ones(3), sink_rate=rate,
               first_token=np.array([[0.1, 0.2], [0.9, 0.8], [0.31, 0.32]]),
               norm_first=np.array([5.0, 900.0, 20.0]), norm_rest=np.array([4.0, 6.0, 7.0])),
        context,
    )  # fmt: skip
    assert section.verdict == (
        "75% of the heads sink to the first token; in layer 1 it takes 81% of all attention."
    )
    assert by_id(section, "mass").reading == "More than 0.3 in 2 of 3 layers; highest 0.81."
    assert by_id(section, "heads").reading == "4 of 6 heads have a mean importance above 0.3."
    assert by_id(section, "heads").data["head 1"] == [0.2, 0.8, 0.32]
    assert by_id(section, "rates").reading == (
        "After the first token the most frequent is position 3, with 6.2% of the heads."
    ), "the last positions, seen by few queries, do not count"
    assert by_id(section, "norms").reading == (
        "After layer 1 its norm is 900, that of other tokens 6."
    )


def test_a_probe_is_judged_by_selectivity_not_accuracy(context: Context) -> None:
    section = linear_probe(
        stored("linear_probe", label="line-start", sites=np.array(["a", "b"]),
               accuracy=np.array([0.99, 0.9]), accuracy_low=np.array([0.98, 0.85]),
               accuracy_high=np.array([1.0, 0.95]), control=np.array([0.95, 0.5]),
               selectivity=np.array([0.04, 0.4]), token_identity=0.8, majority=0.6, n_train=10,
               n_test=5, n_test_documents=2),
        context,
    )  # fmt: skip
    assert section.figures[0].reading == (
        "Most selective at b: accuracy 0.90 (0.85 to 0.95), control 0.50; from the token alone 0.80."
    )


def test_an_unknown_result_shows_as_much_as_it_says(context: Context) -> None:
    section = generic(
        Stored("new", "new", {"grid": np.arange(40.0).reshape(2, 20), "many": np.arange(700.0),
                              "bad": np.array([np.nan]), "flag": True},
               units={"many": "nats"}, docs={"many": "a long array"}),
        context,
    )  # fmt: skip
    grid, many, bad = (by_id(section, f"-{name}") for name in ("grid", "many", "bad"))
    assert grid.reading == "2x20 values from 0 to 39."
    assert grid.notes == ("showing 32 of 40 values",)
    assert list(grid.data)[-1] == "grid[15]"
    assert many.question == "a long array"
    assert many.notes == ("showing 500 of 700 values",)
    assert list(many.data)[-1] == "many (nats)"
    assert bad.chart is None
    assert section.figures[0].data == {"name": ["flag"], "value": ["True"]}


def test_a_trace_counts_tokens_per_pass_and_finds_the_doubt(
    context: Context, run_path: Path
) -> None:
    run = open_run(run_path)
    with run.reading() as held, h5py.File("t", "w", driver="core", backing_store=False) as file:
        held.copy("trace", file)
        group = file["trace/plain"]
        group["generations/n_forward"][...] = 4  # not one pass per token
        prompts = group["tokens/prompt"][()]
        entropy = group["tokens/entropy"][()][prompts == 0]
        n, passes = len(prompts), int(group["generations/n_forward"][()].sum())
        seconds = group["generations/seconds"][()].sum()
        section = traces({"plain": group}, Context(run, run.vocabulary, context.macros))
    assert section.tiles[0].value == f"{n / passes:.2f}"
    assert section.tiles[1].value == f"{n / seconds:.1f}"
    assert section.verdict.startswith(f"2 prompts, {n} tokens with engine plain")
    peak = int(np.argmax(entropy))
    assert f"highest, {entropy[peak]:.2f}, before" in by_id(section, "entropy").reading
    assert f"(token {peak})" in by_id(section, "entropy").reading
    (given,) = context.macros.given  # type: ignore[attr-defined]
    counts = [sum(len(block) for block in made["blocks"]) for made in given["generations"]]
    assert counts == [int((prompts == number).sum()) for number in (0, 1)]


def test_the_page_keeps_its_order_and_says_what_is_missing(run_path: Path, tmp_path: Path) -> None:
    html = render(open_run(run_path))
    order = ["Generation: plain", "Next-token loss", "Logit lens", "Norms", "Massive activations",
             "Attention sinks", "strange", "Self-check", "Where this comes from"]  # fmt: skip
    places = [html.index(f">{title}</h2>") for title in order]
    assert places == sorted(places)
    missing = html.partition('id="missing"')[2].partition("</section>")[0]
    assert "tuned lens" in missing
    assert "logit lens" not in missing


def test_what_must_be_read_first_is_told(tmp_path: Path) -> None:
    provenance = Provenance(settings={"bos": "always"})
    with create_run(tmp_path / "bare.h5", provenance=provenance) as writer:
        writer.close(complete=False)
    bare = render(open_run(tmp_path / "bare.h5"))
    assert "The run is incomplete" in bare
    assert "Beginning-of-sequence policy: always." in bare
    assert "tokens were captured" not in bare
    model = wrap_model(tiny_module("llama"), byte_tokenizer())
    texts = from_texts(["def f(x):\n    return x\n"], "one text")
    run = capture_corpus(model, texts, "layers.0.resid_post", tmp_path / "few.h5")
    few = render(run)
    assert "Only 23 tokens were captured; intervals are wide." in few
    assert "incomplete" not in few.partition("Read this first")[2].partition("</aside>")[0]
