"""The decode-trace viewer: its columns, and its one cursor in a real browser."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluoroscope.decoding import Stopping, make_engine, save_generations
from fluoroscope.decoding.trace import Emitted, Node, Step, Trace, save_traces
from fluoroscope.probes import Provenance, Run, create_run, open_run, wrap_model
from fluoroscope.probes.errors import OptionError
from fluoroscope.probes.runfile.h5 import array, members, subgroup
from fluoroscope.probes.storable import text_array
from fluoroscope.probes.vocabulary import Vocabulary
from fluoroscope.reports import build_report
from fluoroscope.reports.columns import packed, smallest, unpacked
from fluoroscope.reports.sections.drafting import wilson
from fluoroscope.reports.sections.trace_columns import Words, trace_columns
from fluoroscope.reports.tokens import visible
from fluoroscope.sae.architectures import make_sae
from fluoroscope.sae.features.firing import add_trace_firing
from tests.families import tiny_module
from tests.reports import examples
from tests.reports.conftest import HOSTILE, Opened
from tests.tokenizers_ import byte_tokenizer

WORDS = [b" the", b"\n", b"</script>", b"\xe2\x80\xae", b"<img src=x onerror=alert(1)>", b"\x00",
         b" na\xc3\xafve", b"\xe6\x97\xa5\xe6\x9c\xac", b"{{ 7*7 }}", b"\xff"]  # fmt: skip
"""Tokens that would break a page which took them for anything but text."""
ENGINES = ("plain", "prompt-lookup", "token-recycling")


def made_run(path: Path, n_words: int) -> Run:
    """An empty run whose vocabulary begins with hostile words."""
    words = [*WORDS, *(f" w{n}".encode() for n in range(len(WORDS), n_words))]
    with create_run(path, provenance=Provenance(model={"name": "made"})) as writer:
        writer.set_vocabulary(Vocabulary(tuple(words), frozenset()))
        writer.close()
    return open_run(path)


def save(run: Run, name: str, traces: list[Trace], prompts: list[list[int]]) -> None:
    """Hand-made traces as an engine's."""
    with run.edit() as file:
        group = file.create_group(f"trace/{name}")
        ids = [np.array(prompt) for prompt in prompts]
        save_traces(group, ["a prompt"] * len(prompts), ids, traces, {"engine": name})
        seconds = [sum(step.seconds for step in trace.steps) for trace in traces]
        group["generations/stop_reason"] = text_array(["max_new_tokens"] * len(prompts))
        group["generations/n_forward"] = np.array([len(trace.steps) for trace in traces])
        group["generations/seconds"] = np.array(seconds)


def drawn_trace(rng: np.random.Generator, *, n_tokens: int, n_nodes: int, n_words: int) -> Trace:
    """Random trees, whose likeliest path is accepted up to a random depth."""
    steps: list[Step] = []
    while sum(len(step.emitted) for step in steps) < n_tokens:
        parents = [-1, *(int(rng.integers(-1, n)) for n in range(1, n_nodes))]
        tokens = rng.integers(0, n_words, n_nodes).tolist()
        depths: list[int] = []
        for parent in parents:
            depths.append(1 if parent < 0 else depths[parent] + 1)
        path, at = [], -1
        for _ in range(int(rng.integers(0, 4))):
            children = [n for n, parent in enumerate(parents) if parent == at]
            if not children:
                break
            at = children[0]
            path.append(at)
        q, p, nats = rng.random(n_nodes), rng.random(n_nodes), rng.random(n_nodes) * 6
        nodes = tuple(
            Node(
                token=tokens[n], parent=parents[n], depth=depths[n], draft_prob=float(q[n]),
                target_prob=float(p[n]), entropy=float(nats[n]), accepted=n in path,
                source="one" if n % 2 else "other",
            )
            for n in range(n_nodes)
        )  # fmt: skip
        kinds = ["accepted"] * len(path) + ["correction"]
        ids = [*(tokens[n] for n in path), int(rng.integers(0, n_words))]
        emitted = tuple(
            Emitted(
                id=token, kind=kind, prob=float(rng.random()), entropy=float(rng.random() * 6),
                rank=int(rng.integers(0, 30)), top_ids=tuple(rng.integers(0, n_words, 5).tolist()),
                top_probs=tuple(sorted(rng.random(5).tolist(), reverse=True)),
            )
            for token, kind in zip(ids, kinds, strict=True)
        )  # fmt: skip
        draft, verify, rest = (rng.random(3) / 50).tolist()
        steps.append(
            Step(
                emitted=emitted,
                nodes=nodes,
                seconds=draft + verify + rest,
                seconds_draft=draft,
                seconds_verify=verify,
            )
        )
    return Trace(steps)


# Columns -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 3, 50_000])
def test_columns_come_back_as_they_went(n: int) -> None:
    rng = np.random.default_rng(0)
    columns = {
        "small": rng.integers(0, 200, n).astype("u1"),
        "signed": rng.integers(-500, 500, n).astype("i2"),
        "odd": rng.integers(0, 9, n * 3 + 1).astype("u1"),
        "real": rng.random((n, 2)).astype("f4"),
    }
    held = json.loads(json.dumps(packed(columns)))
    assert held["gzip"] == (n > 10_000)
    assert all(start % 8 == 0 for _, start, _ in held["columns"].values())
    for name, values in unpacked(held).items():
        np.testing.assert_array_equal(values, columns[name].ravel())
        assert values.dtype == columns[name].dtype
    assert packed(columns) == packed(columns), "the same bytes each time"


def test_columns_refuse_what_a_browser_cannot_read() -> None:
    with pytest.raises(OptionError, match="Column x must be of one of u1, .*got float64"):
        packed({"x": np.zeros(2)})
    with pytest.raises(OptionError, match="must fit into 32 bits, got 0 to 4294967296"):
        smallest(np.array([0, 2**32]))
    for values, kind in (([0, 255], "u1"), ([256], "u2"), ([70_000], "u4"), ([-1, 127], "i1"),
                         ([-1, 128], "i2"), ([-1, 40_000], "i4"), ([], "u1")):  # fmt: skip
        assert smallest(np.array(values, dtype=np.int64)).dtype == kind


def test_a_trace_in_columns_is_the_trace_in_the_file(tmp_path: Path) -> None:
    run = made_run(tmp_path / "r.h5", 300)
    rng = np.random.default_rng(1)
    traces = [drawn_trace(rng, n_tokens=9, n_nodes=7, n_words=300) for _ in range(2)]
    save(run, "made", traces, [[1, 2, 3], [7]])
    with run.reading() as file:
        group = subgroup(file, "trace/made")
        words = Words.of({"made": group})
        held = trace_columns("made", group, words)
        columns = unpacked(held)
        token = {key: group[f"tokens/{key}"][()] for key in ("id", "prob", "step", "top_ids")}
        node = {key: group[f"nodes/{key}"][()] for key in ("token", "step", "draft_prob")}
        seconds = group["steps/seconds"][()]
    np.testing.assert_array_equal(words.ids[columns["token_word"]], token["id"])
    np.testing.assert_array_equal(words.ids[columns["top_word"]], token["top_ids"].ravel())
    np.testing.assert_array_equal(words.ids[columns["node_word"]], node["token"])
    np.testing.assert_array_equal(columns["token_prob"], token["prob"])
    np.testing.assert_array_equal(columns["node_q"], node["draft_prob"])
    np.testing.assert_allclose(columns["step_seconds"], seconds, rtol=1e-7)
    steps = np.arange(len(seconds))
    np.testing.assert_array_equal(np.repeat(steps, np.diff(columns["step_token"])), token["step"])
    np.testing.assert_array_equal(np.repeat(steps, np.diff(columns["step_node"])), node["step"])
    assert [one["length"] for one in held["prompts"]] == [3, 1]
    assert [words.ids[one["last"]] for one in held["prompts"]] == [3, 7]
    assert held["prompts"][1]["tokens"] == [len(traces[0].tokens), len(token["id"])]
    assert held["prompts"][1]["steps"] == [len(traces[0].steps), len(seconds)]
    assert held["rows"] is None


def test_too_many_nodes_are_left_out_by_whole_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made_run(tmp_path / "r.h5", 50)
    trace = drawn_trace(np.random.default_rng(2), n_tokens=20, n_nodes=6, n_words=50)
    save(run, "made", [trace], [[1]])
    monkeypatch.setattr("fluoroscope.reports.sections.trace_columns.MAX_NODES", 15)
    with run.reading() as file:
        group = subgroup(file, "trace/made")
        held = trace_columns("made", group, Words.of({"made": group}))
    columns = unpacked(held)
    assert len(columns["node_q"]) == 12
    assert held["nodes_left_out"] == 6 * len(trace.steps) - 12
    assert columns["step_node"].tolist()[:3] == [0, 6, 12]
    assert set(columns["step_node"].tolist()[3:]) == {12}
    assert columns["step_drafted"].tolist() == [6] * len(trace.steps)


def test_wilson_gives_the_intervals_of_the_textbook() -> None:
    """Against scipy's, an implementation of its own; and never outside [0, 1]."""
    from scipy.stats import binomtest

    for k, n in ((0, 5), (5, 5), (3, 10), (812, 1000)):
        ours = wilson(k, n)
        theirs = binomtest(k, n).proportion_ci(method="wilson")
        np.testing.assert_allclose(ours, (theirs.low, theirs.high), atol=1e-6)


# In a browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drafted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three engines, two prompts, rows of the residual stream read for two of the engines."""
    folder = tmp_path_factory.mktemp("viewer")
    model = wrap_model(tiny_module("llama"), byte_tokenizer(), name="tiny")
    with create_run(folder / "r.h5", provenance=Provenance(model=model.info.as_dict())) as writer:
        writer.set_vocabulary(model.vocabulary)
        writer.close()
    run = open_run(folder / "r.h5")
    rules = Stopping(max_new_tokens=40, ignore_eos=True)
    for name in ENGINES:
        engine = make_engine(model, name, **({} if name == "plain" else {"thrifty": False}))
        sites = [] if name == "plain" else ["layers.*.resid_post"]
        made = engine.generate([HOSTILE, "ab ab ab ab"], stopping=rules, sites=sites)
        save_generations(run, engine, made)
    sae = make_sae("topk", d_in=32, d_sae=96, k=4)
    assert add_trace_firing(run, "layers.1.resid_post", sae, name="small") == list(ENGINES[1:])
    return folder / "r.h5"


@pytest.fixture(scope="module")
def viewer_page(drafted: Path) -> Path:
    return build_report(drafted, drafted.with_suffix(".html"))


def tab_at(browser: Any, page: Path, fragment: str = "", **context: Any) -> Opened:
    """The page in a tab of its own, its cursor placed."""
    tab = browser.new_context(viewport={"width": 1280, "height": 900}, **context).new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(page.as_uri() + fragment)
    tab.wait_for_selector("body[data-ready]", timeout=60_000)
    tab.wait_for_selector(".viewer[data-open='true']", timeout=60_000)
    return Opened(tab, complaints, [])


@pytest.fixture
def shown(browser: Any, viewer_page: Path) -> Iterator[Opened]:
    opened = tab_at(browser, viewer_page, "#engine=token-recycling&prompt=1&step=4")
    yield opened
    assert opened.complaints == []
    opened.page.context.close()


def field(tab: Any, name: str) -> str:
    return tab.locator(f"#v-step [data-field='{name}']").text_content()


def state(tab: Any) -> dict[str, Any]:
    """Where each pane says the cursor is."""
    return tab.evaluate(
        """() => ({
             stream: [...document.querySelectorAll('.shown .tok')].findIndex((t) => t.matches('.at')),
             step: Number(document.querySelector("#v-step [data-field='number']").textContent),
             slider: Number(document.getElementById('v-strip').getAttribute('aria-valuenow')),
             node: document.querySelector('#v-tree .node.at')?.dataset.key ?? null,
             id: document.querySelector("#v-node [data-field='id']").textContent,
             row: document.getElementById('v-state').textContent,
             link: document.getElementById('v-link').getAttribute('href') })"""
    )


def stored(path: Path, engine: str) -> dict[str, np.ndarray]:
    with open_run(path).reading() as file:
        group = subgroup(file, f"trace/{engine}")
        return {
            f"{part}/{key}": array(group, f"{part}/{key}")
            for part in ("tokens", "steps", "nodes")
            for key in members(group, part)
        }


@pytest.mark.browser
def test_every_pane_moves_every_other(shown: Opened, drafted: Path) -> None:
    """Stream, strip and draft each move the cursor; all panes, the card and the link follow."""
    tab, held = shown.page, stored(drafted, "token-recycling")
    first = state(tab)
    assert first["step"] == first["slider"] == 4
    tab.locator(".shown .tok").nth(20).click()
    by_stream = state(tab)
    assert by_stream["stream"] == 20
    assert by_stream["step"] == by_stream["slider"] == held["tokens/step"][20] + 1
    assert int(by_stream["id"]) == held["tokens/id"][20]
    n_prompt = int(held["tokens/position"][0])
    assert f"position {n_prompt + 19}," in by_stream["row"], "the row that decides it"
    tab.locator("#v-strip").focus()
    tab.keyboard.press("ArrowRight")
    by_strip = state(tab)
    step = by_stream["step"]  # counted from one: the next one's row
    assert by_strip["step"] == step + 1
    assert by_strip["stream"] == int(np.flatnonzero(held["tokens/step"] == step)[0])
    assert by_strip["link"] != by_stream["link"]
    busy = int(np.flatnonzero(held["steps/n_drafted"][:20] > 3)[0])
    tab.evaluate(f"location.hash = '#engine=token-recycling&prompt=1&step={busy + 1}'")
    tab.wait_for_selector(f"#v-strip[aria-valuenow='{busy + 1}']")
    nodes = np.flatnonzero(held["nodes/step"] == busy)
    refused = next(n for n in nodes if not held["nodes/accepted"][n])
    tab.locator(f"#v-tree [data-key='n{refused - nodes[0]}']").click()
    by_tree = state(tab)
    assert by_tree["node"] == f"n{refused - nodes[0]}"
    assert int(by_tree["id"]) == held["nodes/token"][refused]
    assert by_tree["step"] == busy + 1
    assert held["tokens/step"][by_tree["stream"]] == busy
    assert by_tree["link"].endswith(f"step={busy + 1}&node={refused - nodes[0] + 1}")


@pytest.mark.browser
def test_an_address_restores_the_cursor(browser: Any, viewer_page: Path, shown: Opened) -> None:
    tab = shown.page
    tab.locator("#v-strip").focus()
    for key in ("PageDown", "ArrowRight"):
        tab.keyboard.press(key)
    tab.locator("#v-tree [data-key]").last.click()
    left = state(tab)
    tab.wait_for_timeout(500)
    assert tab.evaluate("location.hash") == left["link"], "the address follows the cursor"
    again = tab_at(browser, viewer_page, left["link"])
    assert state(again.page) == left
    assert (
        again.page.evaluate("document.getElementById('viewer').getBoundingClientRect().top") < 200
    )
    for wrong in ("#engine=nobody&step=3", "#engine=plain&prompt=99&step=-4&node=x", "#trace"):
        odd = tab_at(browser, viewer_page, wrong)
        assert state(odd.page)["step"] >= 1
        assert odd.complaints == []
        odd.page.context.close()
    again.page.context.close()


@pytest.mark.browser
def test_what_the_viewer_shows_is_what_is_stored(shown: Opened, drafted: Path) -> None:
    """All steps of an engine, and the nodes of some, against the run file."""
    tab = shown.page
    held = stored(drafted, "token-recycling")
    tab.locator("#v-strip").focus()
    tab.keyboard.press("Home")
    n_steps = int((held["steps/prompt"] == 0).sum())
    for step in range(n_steps):
        for name in ("n_drafted", "n_accepted", "n_emitted"):
            assert int(field(tab, name)) == held[f"steps/{name}"][step], (step, name)
        for name in ("seconds", "seconds_draft", "seconds_verify"):
            assert float(field(tab, name)) == pytest.approx(
                held[f"steps/{name}"][step] * 1e3, rel=5.1e-3, abs=1e-9
            ), (step, name)
        entropy = held["tokens/entropy"][np.flatnonzero(held["tokens/step"] == step)[0]]
        assert float(field(tab, "entropy")) == pytest.approx(float(entropy), abs=5.1e-3)
        tab.keyboard.press("ArrowRight")
    assert int(field(tab, "number")) == n_steps, "the last step stays"
    chosen = np.flatnonzero(held["steps/prompt"][held["nodes/step"]] == 0)[::7][:12]
    for node in chosen.tolist():
        step = int(held["nodes/step"][node])
        first = int(np.flatnonzero(held["nodes/step"] == step)[0])
        fragment = f"#engine=token-recycling&prompt=1&step={step + 1}&node={node - first + 1}"
        tab.evaluate(f"location.hash = '{fragment}'")
        tab.wait_for_selector(f"#v-tree .node.at[data-key='n{node - first}']")
        card = lambda name: tab.locator(f"#v-node [data-field='{name}']").text_content()  # noqa: E731
        assert int(card("id")) == held["nodes/token"][node]
        assert int(card("depth")) == held["nodes/depth"][node]
        for name, key in (("q", "draft_prob"), ("p", "target_prob")):
            value = float(held[f"nodes/{key}"][node])
            assert float(card(name).strip("%<")) == pytest.approx(value * 100, rel=5.1e-3, abs=2e-4)
        assert (card("outcome") == "accepted") == bool(held["nodes/accepted"][node])
        assert float(card("entropy").split()[0]) == pytest.approx(
            float(held["nodes/entropy"][node]), abs=5.1e-3
        )


@pytest.mark.browser
def test_states_are_those_of_the_rows_in_the_file(shown: Opened, drafted: Path) -> None:
    """Of a token, the row before it; of a refused draft, its own where that is asked for."""
    tab = shown.page
    with open_run(drafted).reading() as file:
        rows = {key: value[()] for key, value in file["trace/token-recycling/rows"].items()}
        words = [visible(one) for one in open_run(drafted).vocabulary.token_bytes]
    tab.locator(".shown .tok").nth(12).click()
    position = int(re.search(r"position (\d+)", tab.locator("#v-state").text_content())[1])

    def read() -> list[list[str]]:
        return tab.evaluate(
            """() => [...document.querySelectorAll('#v-states tbody tr')].map((row) =>
                 [...row.cells].map((cell) => cell.textContent))"""
        )

    def same(row: int) -> None:
        lines = read()
        assert len(lines) == len(rows["layers"])
        for layer, line in enumerate(lines):
            top = words[rows["top_ids"][row, layer, 0]]
            share = float(rows["top_probs"][row, layer, 0]) * 100
            assert line[1].rpartition(" ")[0] == top
            assert float(line[1].rpartition(" ")[2].strip("%")) == pytest.approx(share, rel=0.06)
            assert float(line[4]) == pytest.approx(float(rows["entropy"][row, layer]), abs=5.1e-3)
            assert float(line[5]) == pytest.approx(float(rows["norm"][row, layer]), rel=5.1e-3)

    mine = (rows["prompt"] == 0) & (rows["node"] < 0) & (rows["position"] == position)
    same(int(np.flatnonzero(mine)[0]))
    with open_run(drafted).reading() as file:
        fired = subgroup(file, "trace/token-recycling/features/small")
        latents, values = array(fired, "latents")[position], array(fired, "values")[position]
    told = tab.locator("#v-firing").text_content()
    assert re.findall(r"#(\d+) ", told) == [str(one) for one in latents if one >= 0] != []
    strengths = [float(one) for one in re.findall(r"#\d+ ([\d.]+?)(?=#|$)", told)]
    np.testing.assert_allclose(strengths, values[latents >= 0], rtol=6e-3)
    held = stored(drafted, "token-recycling")
    row = next(r for r in np.flatnonzero(rows["node"] >= 0) if rows["prompt"][r] == 0)
    node = int(rows["node"][row])
    step = int(held["nodes/step"][node])
    first = int(np.flatnonzero(held["nodes/step"] == step)[0])
    tab.evaluate(
        f"location.hash = '#engine=token-recycling&prompt=1&step={step + 1}&node={node - first + 1}'"
    )
    tab.wait_for_selector(f"#v-tree .node.at[data-key='n{node - first}']")
    tab.locator("#v-row").select_option("own")
    assert "counterfactual" in tab.locator("#v-state").text_content()
    same(int(row))
    tab.locator("#v-engine").select_option("plain")
    tab.wait_for_selector("#v-missing:has-text('--engine plain')")
    told = tab.locator("#v-missing").text_content()
    assert (
        "fluoroscope decode --engine plain --prompt TEXT --sites 'layers.*.resid_post' -o r.h5"
        in told
    )
    assert "fluoroscope information r.h5" in told


@pytest.mark.browser
def test_the_viewer_can_be_walked_without_a_mouse(shown: Opened) -> None:
    """From the engine's select through all panes by Tab and keys alone; focus is never lost."""
    tab = shown.page
    where = """() => { const e = document.activeElement;
        if (e === document.body) return 'lost';
        if (e.matches('.tok')) return 'token';
        return e.id || (e.dataset.key ? 'node' : e.className || e.tagName); }"""

    def now() -> str:
        place = tab.evaluate(where)
        assert place != "lost"
        return place

    tab.locator("#v-engine").focus()
    order = [now()]
    for _ in range(17):
        tab.keyboard.press("Tab")
        order.append(now())
    places = [order.index(one) for one in ("v-engine", "v-prompt", "v-quantity", "v-ghosts",
              "v-play", "v-pace", "v-link", "token", "v-across", "v-order", "v-strip", "node",
              "v-row", "v-states")]  # fmt: skip
    assert places == sorted(places), order
    assert order.count("token") == 1, "one tab stop"
    assert order.count("node") == 1
    tab.locator(".shown .tok.at").focus()
    before = state(tab)
    tab.keyboard.press("ArrowRight")
    assert state(tab)["stream"] == before["stream"] + 1
    tab.keyboard.press("PageDown")
    assert state(tab)["step"] > before["step"]
    assert now() == "token"
    assert tab.evaluate("document.activeElement.classList.contains('at')")
    tab.keyboard.press("Home")
    assert state(tab)["step"] == 1
    tab.keyboard.press("n")
    assert int(field(tab, "n_drafted")) > int(field(tab, "n_accepted")), "n goes to a refusal"
    assert now() == "token"
    tab.keyboard.press("g")
    assert tab.locator("#v-ghosts").get_attribute("aria-pressed") == "true"
    assert tab.locator(".shown .ghost").first.is_visible()
    tab.keyboard.press("g")
    assert not tab.locator(".shown .ghost").first.is_visible()
    place = state(tab)["stream"]
    tab.keyboard.press("e")
    tab.wait_for_selector("#trace-plain-prompt-0.shown")
    assert state(tab)["stream"] == place, "the same place with the next engine"
    assert now() == "token"
    for _ in range(2):
        tab.keyboard.press("e")
        tab.wait_for_timeout(150)
    tab.wait_for_selector("#trace-token-recycling-prompt-0.shown")
    while int(field(tab, "n_drafted")) < 4:
        tab.keyboard.press("n")
    tab.locator("#v-tree [tabindex='0']").focus()
    tab.keyboard.press("Home")
    seen = {state(tab)["node"]}
    for key in ("ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown", "End"):
        tab.keyboard.press(key)
        assert now() == "node"
        seen.add(state(tab)["node"])
    assert len(seen) >= 2, "arrows move inside the draft"
    tab.keyboard.press("n")
    assert now() == "node", "another step's draft takes the focus over"
    tab.locator("#v-strip").focus()
    for key in ("+", "-", "0", "End", "Home"):
        tab.keyboard.press(key)
        assert now() == "v-strip"
    tab.keyboard.press("t")
    assert tab.locator("#trace-token-recycling-steps details").evaluate("d => d.open")
    assert now() == "scroll"
    tab.keyboard.press("?")
    assert "refused drafts in the stream" in tab.locator("dialog#keys").text_content()
    tab.keyboard.press("Escape")


@pytest.mark.browser
def test_steps_can_be_sorted_by_what_they_cost(shown: Opened, drafted: Path) -> None:
    """Arrow keys and clicks go along the sorted strip; the other panes and the address do not care."""
    tab, held = shown.page, stored(drafted, "token-recycling")
    mine = np.flatnonzero(held["steps/prompt"] == 0)
    strip = tab.locator("#v-strip")

    def walk(n: int) -> list[int]:
        strip.focus()
        tab.keyboard.press("Home")
        found = []
        for _ in range(n):
            found.append(int(field(tab, "number")) - 1)
            tab.keyboard.press("ArrowRight")
        return found

    assert walk(5) == [0, 1, 2, 3, 4]
    at = state(tab)["step"]
    tab.locator("#v-order").select_option("seconds")
    assert state(tab)["step"] == at, "sorting moves no cursor"
    seconds = held["steps/seconds"][mine]
    order = np.argsort(-seconds, kind="stable")
    assert walk(len(mine)) == order.tolist()
    assert strip.get_attribute("aria-valuetext").startswith(
        f"{len(mine)} of {len(mine)} by seconds"
    )
    box = strip.bounding_box()
    strip.click(position={"x": 66, "y": box["height"] - 20})
    assert int(field(tab, "number")) - 1 == order[0], "the slowest stands on the left"
    tab.keyboard.press("PageDown")
    assert int(field(tab, "number")) - 1 == order[min(10, len(order) - 1)]
    tab.locator("#v-order").select_option("refused")
    refused = (held["steps/n_drafted"] - held["steps/n_accepted"])[mine]
    assert walk(len(mine)) == np.argsort(-refused, kind="stable").tolist()
    assert "Sorted by refused drafts" in tab.locator("#v-strip-note").text_content()
    tab.locator("#v-order").select_option("time")
    assert walk(5) == [0, 1, 2, 3, 4]


def timed(seconds: list[float]) -> Trace:
    """A step of two tokens for each duration."""
    token = Emitted(
        id=3, kind="plain", prob=0.5, entropy=1.0, rank=0, top_ids=(3,) * 5, top_probs=(0.2,) * 5
    )
    return Trace([
        Step(emitted=(token, token), nodes=(), seconds=s, seconds_draft=0.0, seconds_verify=s)
        for s in seconds
    ])


@pytest.mark.browser
def test_a_generation_is_replayed_in_the_seconds_it_took(browser: Any, tmp_path: Path) -> None:
    run = made_run(tmp_path / "t.h5", len(WORDS))
    save(run, "made", [timed([0.2, 0.3, 30.0, 0.2])], [[5, 6]])
    opened = tab_at(browser, build_report(run, tmp_path / "t.html"))
    tab = opened.page
    hidden = """() => [...document.querySelectorAll('.shown .tok')].map(
        (t) => getComputedStyle(t).visibility === 'hidden')"""
    tab.locator("#v-strip").focus()
    tab.keyboard.press("Home")
    started = time.monotonic()
    tab.locator("#v-play").click()
    assert tab.locator("#v-play").get_attribute("aria-pressed") == "true"
    tab.wait_for_selector("#v-strip[aria-valuenow='3']", timeout=20_000)
    assert time.monotonic() - started >= 0.5, "two steps took half a second"
    tab.wait_for_timeout(500)
    assert tab.evaluate(hidden) == [False] * 4 + [True] * 4, "the third step lasts half a minute"
    assert field(tab, "number") == "3"
    tab.locator("#v-pace").select_option("50")
    tab.wait_for_selector("#v-play[aria-pressed='false']", timeout=20_000)
    assert field(tab, "number") == "4"
    assert not any(tab.evaluate(hidden))
    tab.locator("#v-play").click()
    tab.wait_for_selector("#v-strip[aria-valuenow='3']", timeout=20_000)
    tab.locator("#v-strip").focus()
    tab.keyboard.press("Home")
    assert tab.locator("#v-play").get_attribute("aria-pressed") == "false", "a move ends it"
    assert not any(tab.evaluate(hidden))
    tab.keyboard.press("r")
    assert tab.locator("#v-play").get_attribute("aria-pressed") == "true"
    tab.keyboard.press("r")
    assert tab.locator("#v-play").get_attribute("aria-pressed") == "false"
    assert opened.complaints == []
    tab.context.close()
    calm = tab_at(browser, tmp_path / "t.html", reduced_motion="reduce")
    assert not calm.page.locator("#v-play").is_visible()
    calm.page.locator("#v-strip").focus()
    calm.page.keyboard.press("r")
    assert calm.page.locator("#v-play").get_attribute("aria-pressed") == "false"
    calm.page.context.close()


@pytest.mark.browser
def test_a_trace_with_numbers_that_are_not_finite_is_shown(browser: Any, tmp_path: Path) -> None:
    """Entropies and a surplus without a value: the viewer opens and says that they are not known."""
    run = made_run(tmp_path / "n.h5", 60)
    trace = drawn_trace(np.random.default_rng(4), n_tokens=20, n_nodes=4, n_words=60)
    save(run, "made", [trace], [[1]])
    run.add_result("information_flow", examples.EXAMPLES["information_flow"](0))
    with run.edit() as file:
        file["trace/made/tokens/entropy"][:] = np.nan
        file["trace/made/tokens/entropy"][1] = 2.0
        file["results/information_flow/surplus"][0] = np.nan
    page = build_report(open_run(run.path), tmp_path / "n.html")
    html = page.read_text()
    assert "Mean entropy 2.00 nats; highest, 2.00, before" in html
    assert "some entropies are not finite" in html
    opened = tab_at(browser, page)
    tab = opened.page
    tab.locator("#v-strip").focus()
    tab.keyboard.press("Home")
    assert field(tab, "entropy") == "–"
    assert tab.locator("#v-strip .dots").get_attribute("d").count("M") <= 1
    assert opened.complaints == []
    tab.context.close()


@pytest.mark.browser
def test_the_engine_asked_for_last_is_shown(browser: Any, tmp_path: Path) -> None:
    """A large trace takes longer to open than a small one; an engine without tokens moves nothing."""
    run = made_run(tmp_path / "r.h5", 500)
    rng = np.random.default_rng(0)
    for name, n_tokens, n_nodes in (("a-start", 8, 2), ("large", 2000, 40), ("small", 12, 2)):
        save(run, name, [drawn_trace(rng, n_tokens=n_tokens, n_nodes=n_nodes, n_words=500)], [[1]])
    save(run, "silent", [Trace([])], [[1]])
    opened = tab_at(browser, build_report(run, tmp_path / "r.html"), "#engine=a-start")
    tab = opened.page
    tab.evaluate(
        """() => { const select = document.getElementById('v-engine');
             for (const name of ['large', 'small']) {
               select.value = name;
               select.dispatchEvent(new Event('change')); } }"""
    )
    tab.wait_for_selector("#trace-small-prompt-0.shown")
    tab.wait_for_timeout(1000)
    assert tab.locator("#trace-small-prompt-0").get_attribute("class").endswith("shown")
    assert tab.locator("#v-engine").input_value() == "small"
    before = state(tab)
    tab.locator("#v-engine").select_option("silent")
    tab.wait_for_timeout(200)
    assert tab.locator("#v-engine").input_value() == "small", "the switch says what is shown"
    assert state(tab) == before
    tab.locator("#v-strip").focus()
    tab.keyboard.press("End")
    assert int(state(tab)["link"].partition("step=")[2].partition("&")[0]) == state(tab)["step"]
    assert int(tab.locator("#v-strip").get_attribute("aria-valuemax")) == state(tab)["step"] > 3
    assert opened.complaints == []
    tab.context.close()


@pytest.mark.browser
def test_backgrounds_show_the_chosen_quantity(shown: Opened, drafted: Path) -> None:
    tab, held = shown.page, stored(drafted, "token-recycling")
    first = held["tokens/prompt"] == 0
    levels = """() => [...document.querySelectorAll('.shown .tok')].map(
        (t) => Number((t.className.match(/ q(\\d)/) ?? [0, 0])[1]))"""
    entropy = np.clip(held["tokens/entropy"][first] / 6, 0, 1) * 8
    np.testing.assert_allclose(tab.evaluate(levels), entropy, atol=0.5001)
    tab.locator("#v-quantity").select_option("p")
    np.testing.assert_allclose(tab.evaluate(levels), held["tokens/prob"][first] * 8, atol=0.5001)
    tab.locator("#v-quantity").select_option("q")
    drafted_tokens = held["tokens/kind"][first] == 2
    assert not np.array(tab.evaluate(levels))[~drafted_tokens].any()
    tab.locator("#v-quantity").select_option("none")
    assert set(tab.evaluate(levels)) == {0}
    assert tab.locator("#v-scale").text_content() == ""
    for name in ("surprise", "overlap", "rank", "seconds", "settled", "entropy"):
        tab.locator("#v-quantity").select_option(name)
        assert tab.locator("#v-scale").text_content().strip()
    np.testing.assert_allclose(tab.evaluate(levels), entropy, atol=0.5001)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_in_the_viewer(
    browser: Any, viewer_page: Path, axe: str, scheme: str
) -> None:
    fragment = "#engine=token-recycling&prompt=1&step=12&node=2"
    opened = tab_at(browser, viewer_page, fragment, color_scheme=scheme)
    opened.page.keyboard.press("g")
    opened.page.evaluate(axe)
    found = opened.page.evaluate("axe.run('#trace', { resultTypes: ['violations'] })")
    told = [(v["id"], [n["html"][:160] for n in v["nodes"][:3]]) for v in found["violations"]]
    assert told == []
    assert len(found["passes"]) >= 20
    opened.page.context.close()


@pytest.mark.browser
def test_hostile_tokens_are_text_in_every_pane(browser: Any, tmp_path: Path) -> None:
    run = made_run(tmp_path / "h.h5", len(WORDS))
    trace = drawn_trace(np.random.default_rng(3), n_tokens=60, n_nodes=12, n_words=len(WORDS))
    save(run, "<b>made &amp;", [trace], [list(range(len(WORDS)))])
    opened = tab_at(browser, build_report(run, tmp_path / "h.html"))
    tab = opened.page
    tab.keyboard.press("g")
    tab.locator("#v-strip").focus()
    for _ in range(6):
        tab.keyboard.press("ArrowRight")
    tab.locator(".shown .tok").nth(5).click()
    assert opened.complaints == []
    assert tab.locator("#viewer img, #viewer script:not([type])").count() == 0
    text = tab.evaluate("document.getElementById('viewer').innerText")
    assert "</script>" in text
    assert "onerror" in text
    assert "\u202e" not in text
    assert "\x00" not in text
    assert "49" not in tab.locator(".shown .stream").text_content()
    tab.context.close()


@pytest.mark.browser
def test_the_viewer_reads_without_script(browser: Any, viewer_page: Path) -> None:
    """Every stream, the steps that tell most, and the tables; no empty panes."""
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(viewer_page.as_uri())
    for stream in tab.locator(".stream[data-trace]").all():
        assert stream.is_visible()
    assert tab.locator(".telling pre").first.is_visible()
    assert "most refused" in tab.locator(".telling").last.text_content()
    assert tab.locator(".pane:visible").count() == 1
    assert tab.locator("#trace-token-recycling-steps").is_visible()
    context.close()


@pytest.mark.browser
def test_paper_shows_one_generation_and_its_telling_steps(browser: Any, viewer_page: Path) -> None:
    opened = tab_at(browser, viewer_page)
    opened.page.emulate_media(media="print")
    assert opened.page.locator(".generation:visible").count() == 1
    assert opened.page.locator(".telling:visible").count() == 1
    assert opened.page.locator("#v-tree svg").is_visible()
    opened.page.context.close()


@pytest.mark.browser
def test_budgets_of_a_long_generation(browser: Any, tmp_path: Path) -> None:
    """2,000 tokens, 64 nodes a step: size and elements exactly, times loosely (they are printed)."""
    run = made_run(tmp_path / "long.h5", 20_000)
    rng = np.random.default_rng(0)
    trace = drawn_trace(rng, n_tokens=2_000, n_nodes=64, n_words=20_000)
    save(run, "made", [trace], [rng.integers(0, 20_000, 300).tolist()])
    page = build_report(run, tmp_path / "long.html")
    megabytes = page.stat().st_size / 1e6
    opened = tab_at(browser, page)
    tab = opened.page
    load = tab.evaluate("performance.getEntriesByName('viewer-open')[0].startTime")
    elements = tab.evaluate("document.querySelectorAll('*').length")
    tab.locator("#v-strip").focus()
    moves = tab.evaluate(
        """async () => {
             const strip = document.getElementById('v-strip'), times = [];
             const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
             for (let i = 0; i < 40; i++) {
               await frame();
               const start = performance.now();
               const key = i % 5 ? 'ArrowRight' : 'PageDown';
               strip.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
               document.body.getBoundingClientRect();
               times.push(performance.now() - start);
             }
             return times.sort((a, b) => a - b); }"""
    )
    print(  # noqa: T201
        f"\n2,000 tokens, {len(trace.steps)} steps of 64 nodes: {megabytes:.2f} MB, open after "
        f"{load:.0f} ms, {elements} elements, cursor move median {moves[20]:.1f} ms, "
        f"least {moves[0]:.1f}, most {moves[-1]:.1f} ms"
    )
    assert megabytes < 8
    assert elements < 30_000
    assert load < 10_000
    assert moves[20] < 250
    assert opened.complaints == []
    tab.context.close()
