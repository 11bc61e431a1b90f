"""Formats of other libraries. Those tests that ask the libraries themselves run in an environment named
by FLUOROSCOPE_SAE_PEERS (its Python; sae-lens, eai-sparsify and dictionary-learning beside torch)."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fluoroscope.probes.errors import OptionError
from fluoroscope.sae import (
    SaeFileError,
    load_any,
    load_dictionary_learning,
    load_saelens,
    make_sae,
    matching_pursuit,
    save_saelens,
)
from tests.sae.test_architectures import rows, trained

HERE = Path(__file__).parent
ROWS = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def ask(tmp_path):
    python = os.environ.get("FLUOROSCOPE_SAE_PEERS")
    if python is None:
        pytest.skip("no environment with the peers: set FLUOROSCOPE_SAE_PEERS to its Python")

    def run(what: str, folder: Path) -> dict:
        answer = tmp_path / f"{what}.json"
        command = [python, "-W", "ignore", str(HERE / "peer_formats.py"), what, str(folder)]
        subprocess.run([*command, str(answer)], check=True, capture_output=True, timeout=800)
        return json.loads(answer.read_text())

    return run


@pytest.mark.parametrize(
    "name", ["relu", "gated", "topk", "jumprelu", "batchtopk", "matryoshka", "mp"]
)
def test_writing_and_reading_saelens_format_keeps_codes(name, tmp_path):
    sae = trained(name)
    sae.metadata = {"site": "layers.1.resid_post", "source": {"model": "m"}}
    again = load_any(save_saelens(sae, tmp_path))
    assert again.architecture == ("jumprelu" if name in {"batchtopk", "matryoshka"} else name)
    torch.testing.assert_close(again.encode(rows(9)), sae.encode(rows(9)), atol=1e-6, rtol=1e-6)
    assert again.metadata["saelens"]["hook_name"] == "layers.1.resid_post"


def test_what_saelens_cannot_say_is_refused(tmp_path):
    for sae in (
        trained("omp"), trained("topk", input_norm="token_std"),
        make_sae("mp", d_in=4, d_sae=8, k=2, relative_tolerance=0.1),
        make_sae("topk", d_in=4, d_sae=8, k=2, d_out=3, apply_b_dec_to_input=False),
    ):  # fmt: skip
        with pytest.raises(OptionError, match="SAELens"):
            save_saelens(sae, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_damaged_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(SaeFileError, match="it holds none"):
        load_any(tmp_path)
    folder = save_saelens(trained("topk"), tmp_path / "a")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"normalize_activations": "layer_norm"}))
    with pytest.raises(SaeFileError, match="fold that"):
        load_saelens(folder)
    (folder / "cfg.json").write_text(json.dumps(config | {"architecture": "temporal"}))
    with pytest.raises(SaeFileError, match="'temporal'"):
        load_saelens(folder)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(
        {"W_enc": torch.zeros(2, 2), "W_dec": torch.ones(2, 2)}, folder / "sae_weights.safetensors"
    )
    with pytest.raises(SaeFileError, match="do not fit"):
        load_saelens(folder)
    (folder / "sae_weights.safetensors").write_bytes(b"no")
    with pytest.raises(SaeFileError, match="damaged"):
        load_saelens(folder)


@pytest.mark.parametrize(
    ("file", "lost"),
    [("cfg.json", "d_in"), ("cfg.json", "k"), ("sae_weights.safetensors", "W_dec")],
)
def test_what_a_folder_of_saelens_lacks_is_named(file, lost, tmp_path):
    folder = save_saelens(trained("topk"), tmp_path)
    if file == "cfg.json":
        config = json.loads((folder / file).read_text())
        del config[lost]
        (folder / file).write_text(json.dumps(config))
    else:
        kept = load_file(folder / file)
        del kept[lost]
        save_file(kept, folder / file)
    with pytest.raises(SaeFileError, match=f"lacks '{lost}'"):
        load_saelens(folder)


def test_what_a_folder_of_sparsify_lacks_is_named(tmp_path):
    (tmp_path / "cfg.json").write_text(json.dumps({"activation": "topk"}))
    weights = {"encoder.weight": torch.zeros(4, 3), "W_dec": torch.ones(4, 3)}
    save_file(weights, tmp_path / "sae.safetensors")
    with pytest.raises(SaeFileError, match=r"lacks b_dec, encoder.bias, k\."):
        load_any(tmp_path)


@pytest.mark.parametrize("lost", ["weights_sha256", "options", "metadata"])
def test_what_a_folder_of_ours_lacks_is_named(lost, tmp_path):
    folder = trained("topk").save(tmp_path)
    stored = json.loads((folder / "sae.json").read_text())
    del stored[lost]
    (folder / "sae.json").write_text(json.dumps(stored))
    with pytest.raises(SaeFileError, match=f"lacks {lost}"):
        load_any(folder)
    (folder / "sae.json").write_text("[]")
    with pytest.raises(SaeFileError, match="got None"):
        load_any(folder)


class Surprise:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_pickle_that_holds_code_is_not_run(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
    torch.save({"encoder.weight": Surprise()}, tmp_path / "ae.pt")
    with pytest.raises(SaeFileError, match="can run code"):
        load_dictionary_learning(tmp_path)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("what", ["saelens_write", "sparsify_write", "dictionary_learning_write"])
def test_what_peers_wrote_gives_their_codes(ask, tmp_path, what):
    answers = ask(what, tmp_path / "theirs")
    assert answers
    for name, answer in answers.items():
        sae = load_any(tmp_path / "theirs" / name)
        codes = sae.encode(ROWS)
        torch.testing.assert_close(codes, torch.tensor(answer["codes"]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            sae.decode(codes), torch.tensor(answer["rebuilt"]), atol=1e-5, rtol=1e-5
        )


@pytest.mark.slow
def test_saelens_reads_what_we_write(ask, tmp_path):
    made = {}
    for name in ("relu", "gated", "topk", "jumprelu", "batchtopk", "mp"):
        k = {} if name in {"relu", "gated"} else {"k": 3}
        made[name] = make_sae(name, d_in=6, d_sae=14, **k).eval()
        save_saelens(made[name], tmp_path / "ours" / name)
    answers = ask("saelens_read", tmp_path / "ours")
    assert answers.keys() == made.keys()
    for name, answer in answers.items():
        codes = made[name].encode(ROWS)
        torch.testing.assert_close(codes, torch.tensor(answer["codes"]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            made[name].decode(codes), torch.tensor(answer["rebuilt"]), atol=1e-5, rtol=1e-5
        )


@pytest.mark.slow
def test_pursuit_equals_overcompletes_on_the_same_atoms(ask, tmp_path):
    """With so many atoms every best correlation is positive, where the two definitions agree."""
    generator = torch.Generator().manual_seed(0)
    atoms = torch.randn(200, 10, generator=generator)
    given = {
        "rows": torch.randn(50, 10, generator=generator),
        "atoms": atoms / atoms.norm(dim=1, keepdim=True),
        "k": 12,
    }
    torch.save(given, tmp_path / "given.pt")
    answer = ask("overcomplete_pursue", tmp_path)
    path = matching_pursuit(given["rows"], given["atoms"], n_steps=12)
    assert (path.values > 0).all()
    torch.testing.assert_close(
        path.codes().dense(), torch.tensor(answer["codes"]), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        path.residual, torch.tensor(answer["residual"]), atol=1e-5, rtol=1e-5
    )
