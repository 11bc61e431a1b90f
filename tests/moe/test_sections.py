"""Sections of the page for experts: drawn from results as they stand in a run file."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fluoroscope.cli import app
from fluoroscope.moe.moex.comparison import MoexComparison, student
from fluoroscope.moe.moex.games import play_games, write_games
from fluoroscope.moe.moex.measuring import METRICS
from fluoroscope.probes import Provenance, create_run, open_run
from fluoroscope.reports import build_report
from fluoroscope.running import BAD_INPUT
from tests.moe.planting import grown, plant
from tests.moe.test_commands import call

FEW = pytest.mark.filterwarnings("ignore::fluoroscope.moe.criterion.FewExpertsWarning")


def comparison(n_seeds: int = 3, *, switch: float = 0.4) -> MoexComparison:
    """A made-up table: reconstruction rises from dense over Switch to MoE-X."""
    names = np.array(["dense, GELU", "dense, ReLU", "Switch", "MoE-X"])
    generator = np.random.default_rng(0)
    values = generator.normal(0, 0.01, (len(METRICS), 4, n_seeds))
    values += np.array([0.3, 0.31, switch, 0.5])[None, :, None]
    values[list(METRICS).index("detection")] = np.nan
    mean, low, high = student(values)
    ahead, ahead_low, ahead_high = student(values[:, [3]] - values)
    load = np.full((4, 4), np.nan)
    load[2:] = [[0.7, 0.1, 0.1, 0.1], [0.25] * 4]
    return MoexComparison(
        task="chess", corpus="games", contestants=names, seeds=np.arange(n_seeds),
        metrics=np.array(list(METRICS)), meanings=np.array(list(METRICS.values())), values=values,
        mean=mean, low=low, high=high, champion=3, ahead=ahead, ahead_low=ahead_low,
        ahead_high=ahead_high, load=load, best_f1=np.zeros((4, 3)), best_feature=np.zeros((4, 3)),
        layer=1, n_steps=10, n_tokens=1000, settings={},
    )  # fmt: skip


def page_of(results: dict, folder: Path) -> str:
    model = grown("mixtral")
    with create_run(
        folder / "a.h5", provenance=Provenance(model=model.info.as_dict(), corpus={})
    ) as writer:
        writer.set_vocabulary(model.vocabulary)
        writer.close()
    run = open_run(folder / "a.h5")
    for name, result in results.items():
        run.add_result(name, result)
    return build_report(folder / "a.h5").read_text()


def test_the_comparison_is_drawn_with_intervals_and_says_whether_the_order_appears(
    tmp_path: Path,
) -> None:
    html = page_of({"moex_chess": comparison()}, tmp_path)
    assert ">MoE-X and its rivals: chess</h2>" in html
    assert "order (MoE-X, Switch, dense) appears" in html
    assert "Student&#39;s t over seeds" in html
    for question in (
        "Can the board be read off",
        "How far is MoE-X ahead",
        "Is the load balanced?",
    ):
        assert question in html
    assert "MoE-X: 1.00" in html
    assert "Switch: 2.80" in html


def test_an_order_that_does_not_appear_is_said_not_to(tmp_path: Path) -> None:
    html = page_of({"moex_chess": comparison(1, switch=0.2)}, tmp_path)
    assert "order (MoE-X, Switch, dense) does not appear" in html
    assert "no interval: one seed" in html


@FEW
def test_profile_confirms_and_compares_corpora_on_one_page(tmp_path: Path) -> None:
    made, run = tmp_path / "made", tmp_path / "moe.h5"
    model = plant(grown("qwen3_moe"))
    model.module.save_pretrained(made)
    model.tokenizer.save_pretrained(made)
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"{name} more line of text to read\n" * 20)
    code, document = call(
        "profile", "-m", made, "-t", tmp_path / "one.txt", "--quantile", 95, "--context", 32,
        "--tokens", 128, "--confirm", 2, "--against", tmp_path / "two.txt", "-o", run,
    )  # fmt: skip
    assert code == 0, document
    assert document["result"]["super_experts"]
    assert "confirmed" in document["result"]
    assert "on_every_corpus" in document["result"]
    code, document = call(
        "quantise", "-m", made, "-t", tmp_path / "one.txt", "-e", "1:4", "--bits", 8, "--bits", 2,
        "--draws", 1, "--context", 32, "--tokens", 64, "-o", run,
    )  # fmt: skip
    assert code == 0, document
    assert document["result"]["bits"] == [8, 2]
    html = build_report(run).read_text()
    for heading in (
        "Candidates confirmed", "Super experts, whatever the text", "Super experts at fewer bits",
    ):  # fmt: skip
        assert f">{heading}</h2>" in html
    code, document = call(
        "prune", "-m", made, "-t", tmp_path / "one.txt", "-e", "1:4", "--mode", "reroute",
        "--draws", 0, "--context", 32, "--tokens", 64, "--save", tmp_path / "rerouted",
    )  # fmt: skip
    assert code == 0, document
    config = json.loads((tmp_path / "rerouted" / "config.json").read_text())
    assert config["fluoroscope_ablation"] == {"mode": "reroute", "experts": [[1, 4]]}


def test_train_writes_table_result_and_page(tmp_path: Path) -> None:
    pytest.importorskip("chess", reason="the package chess is not installed")
    games = write_games(play_games(40, n_plies=12, seed=0), tmp_path / "games.pgn")
    run = tmp_path / "moex.h5"
    given = ["train", "--games", games, "--steps", 4, "--rows", 4, "--d-model", 16, "--heads", 2]
    given += ["--context", 48, "--seeds", 1, "-c", "dense-relu", "-c", "moex", "-o", run]
    code, document = call(*given)
    assert code == 0, document
    assert set(document["result"]["means"]) == {"dense, ReLU", "MoE-X"}
    assert document["result"]["means"]["MoE-X"]["loss"] > 0
    assert (tmp_path / "moex.work" / "moex-0" / "model" / "model.safetensors").exists()
    assert ">MoE-X and its rivals: chess</h2>" in build_report(run).read_text()
    code, document = call("train", "--task", "text", "--games", games, "-o", run)
    assert code == BAD_INPUT
    assert "goes with --task chess" in document["error"]["message"]


def test_games_are_played_to_a_file(tmp_path: Path) -> None:
    pytest.importorskip("chess", reason="the package chess is not installed")
    code, document = call("games", "-n", 3, "--plies", 8, "-o", tmp_path / "g.pgn.gz")
    assert code == 0, document
    assert document["result"]["n_games"] == 3
    assert (tmp_path / "g.pgn.gz").exists()


@pytest.mark.parametrize("command", ["train", "games", "quantise"])
def test_help_teaches_by_example(command: str) -> None:
    result = CliRunner().invoke(app, ["moe", command, "--help"])
    assert result.exit_code == 0
    assert result.output.count("Example: fluoroscope moe") >= 2
