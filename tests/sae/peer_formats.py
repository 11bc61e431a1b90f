"""Run by a peer environment's Python: writes and reads autoencoders with SAELens, sparsify,
dictionary_learning and overcomplete themselves. Arguments: the library, then folders; prints JSON."""

# Peers live in environments of their own, where the type checker does not look.
# pyright: reportMissingImports=false

import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
import torch  # noqa: E402

D, P, K = 6, 14, 3
ROWS = torch.randn(20, D, generator=torch.Generator().manual_seed(1))


def randomise(module):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)


def saelens_read(folder: Path):
    from sae_lens import SAE

    found = {}
    for held in sorted(folder.iterdir()):
        sae = SAE.load_from_disk(held)
        with torch.no_grad():
            codes = sae.encode(ROWS)
            found[held.name] = {"codes": codes.tolist(), "rebuilt": sae.decode(codes).tolist()}
    return found


def saelens_write(folder: Path):
    import sae_lens
    from sae_lens.saes import matching_pursuit_sae as mp

    found = {}
    for name in ("Standard", "Gated", "TopK", "JumpReLU", "MatchingPursuit"):
        kind = getattr(sae_lens, f"{name}SAE", None) or getattr(mp, f"{name}SAE")
        config = getattr(sae_lens, f"{name}SAEConfig", None) or getattr(mp, f"{name}SAEConfig")
        more = {"k": K, "rescale_acts_by_decoder_norm": True} if name == "TopK" else {}
        more = {"max_iterations": K} if name == "MatchingPursuit" else more
        sae = kind(config(d_in=D, d_sae=P, **more))
        randomise(sae)
        if name == "MatchingPursuit":
            sae.W_dec.data /= sae.W_dec.data.norm(dim=1, keepdim=True)
        sae.save_model(folder / name)
        with torch.no_grad():
            codes = sae.encode(ROWS)
            found[name] = {"codes": codes.tolist(), "rebuilt": sae.decode(codes).tolist()}
    return found


def sparsify_write(folder: Path):
    from sparsify import SparseCoder, SparseCoderConfig

    sae = SparseCoder(D, SparseCoderConfig(num_latents=P, k=K), device="cpu")
    randomise(sae)
    sae.save_to_disk(folder / "sparsify")
    with torch.no_grad():
        # Its decoder kernel needs a GPU; the same sum is written out here.
        out = sae.encode(ROWS)
        codes = torch.zeros(len(ROWS), P).scatter_(1, out.top_indices, out.top_acts)
        return {
            "sparsify": {
                "codes": codes.tolist(), "rebuilt": (codes @ sae.W_dec + sae.b_dec).tolist(),
            }
        }  # fmt: skip


def dictionary_learning_write(folder: Path):
    from dictionary_learning.dictionary import (
        AutoEncoder,
        AutoEncoderNew,
        GatedAutoEncoder,
        JumpReluAutoEncoder,
    )
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    made = {
        "AutoEncoder": AutoEncoder(D, P), "AutoEncoderNew": AutoEncoderNew(D, P),
        "GatedAutoEncoder": GatedAutoEncoder(D, P), "JumpReluAutoEncoder": JumpReluAutoEncoder(D, P),
        "AutoEncoderTopK": AutoEncoderTopK(D, P, K), "BatchTopKSAE": BatchTopKSAE(D, P, K),
        "MatryoshkaBatchTopKSAE": MatryoshkaBatchTopKSAE(D, P, K, [4, 10]),
    }  # fmt: skip
    found = {}
    for name, sae in made.items():
        randomise(sae)
        if "BatchTopK" in name:
            sae.threshold.fill_(0.3)
        (folder / name).mkdir(parents=True)
        if name == "AutoEncoder":
            with torch.no_grad():
                sae.normalize_decoder()  # as its from_pretrained does
        torch.save(sae.state_dict(), folder / name / "ae.pt")
        config = {"trainer": {"dict_class": name}}
        (folder / name / "config.json").write_text(json.dumps(config))
        with torch.no_grad():
            codes = sae.encode(ROWS)
            found[name] = {"codes": codes.tolist(), "rebuilt": sae.decode(codes).tolist()}
    return found


def overcomplete_pursue(folder: Path):
    """Matching pursuit of overcomplete, whose package imports vision models that are not needed."""
    import importlib.util
    import types

    spec = importlib.util.find_spec("overcomplete")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = types.ModuleType("overcomplete")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["overcomplete"] = package
    from overcomplete.sae.mp_sae import MpSAE

    held = torch.load(folder / "given.pt", weights_only=True)
    sae = MpSAE(held["atoms"].shape[1], len(held["atoms"]), k=held["k"])
    sae.get_dictionary = lambda: held["atoms"]
    residual, codes = sae.encode(held["rows"])
    return {"codes": codes.tolist(), "residual": residual.tolist()}


if __name__ == "__main__":
    out = globals()[sys.argv[1]](Path(sys.argv[2]))
    Path(sys.argv[3]).write_text(json.dumps(out))
