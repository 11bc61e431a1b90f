from pathlib import Path

import numpy as np
import pytest
import torch

from fluoroscope.probes import Model, Run
from fluoroscope.probes.errors import OptionError
from fluoroscope.sae import make_sae
from fluoroscope.sae.features import FeatureIndex, build_index, find_tokens
from fluoroscope.sae.features.asking import firing_on_text, open_index, strongest_in_run
from fluoroscope.sae.features.cards import CardOptions, FeatureCards, feature_cards
from fluoroscope.sae.features.paths import pursuit_paths
from fluoroscope.sae.metrics import RandomDecoder
from fluoroscope.sae.mp import MpSae

from .conftest import SITE


@pytest.fixture
def index(tiny_run: Run, dictionary: RandomDecoder, path: Path) -> FeatureIndex:
    return build_index(tiny_run, SITE, dictionary, path)


@pytest.fixture
def cards(
    tiny_run: Run, dictionary: RandomDecoder, index: FeatureIndex, tiny_llama: Model
) -> FeatureCards:
    return feature_cards(tiny_run, index, dictionary, model=tiny_llama, features=[3, 7])


def test_cards_say_what_the_index_says(cards: FeatureCards, index: FeatureIndex) -> None:
    assert cards.features.tolist() == [3, 7]
    for at, feature in enumerate((3, 7)):
        assert cards.histogram[at].sum() == index.counts()[feature]
        top = cards.context_values[at, :, cards.before][cards.context_group[at] == -1]
        assert np.abs(top).max() == pytest.approx(index.maxima()[feature], rel=1e-5)
    np.testing.assert_allclose(cards.density, index.density()[[3, 7]])


def test_logit_effects_are_the_centred_unembedding(
    cards: FeatureCards, dictionary: RandomDecoder, tiny_llama: Model
) -> None:
    with torch.no_grad():
        scale = tiny_llama.final_norm.weight
        assert isinstance(scale, torch.Tensor)
        effects = tiny_llama.unembedding(dictionary.W_dec[3] * scale)
        effects = effects - effects.mean()
    assert cards.up_ids[0, 0] == int(effects.argmax())
    assert cards.up_values[0, 0] == pytest.approx(float(effects.max()), rel=1e-4)
    assert cards.down_values[0, 0] == pytest.approx(float(effects.min()), rel=1e-4)


def test_logit_effects_do_not_depend_on_the_decoders_length(
    tiny_run: Run, rows: torch.Tensor, tiny_llama: Model, path: Path
) -> None:
    found = []
    for factor in (1.0, 3.0):
        made = RandomDecoder(rows, 48, 5, generator=torch.Generator().manual_seed(0))
        index = build_index(tiny_run, SITE, made, path)
        made.W_dec = made.W_dec * factor
        found.append(feature_cards(tiny_run, index, made, model=tiny_llama, features=[3]))
    np.testing.assert_allclose(found[0].up_values, found[1].up_values, rtol=1e-4)
    np.testing.assert_allclose(found[0].neighbours, found[1].neighbours)
    assert found[1].decoder_norm[0] == pytest.approx(3 * found[0].decoder_norm[0])


def test_nearest_directions_are_those_of_largest_cosine(
    cards: FeatureCards, dictionary: RandomDecoder
) -> None:
    unit = dictionary.W_dec / dictionary.W_dec.norm(dim=1, keepdim=True)
    cosines = (unit @ unit[3]).numpy()
    cosines[3] = -2
    assert cards.neighbours[0].tolist() == np.argsort(-cosines)[:5].tolist()


def test_features_are_chosen_where_none_are_asked_for(
    tiny_run: Run, dictionary: RandomDecoder, index: FeatureIndex
) -> None:
    found = feature_cards(tiny_run, index, dictionary, options=CardOptions(n_features=2))
    assert len(found.features) == 2
    assert (found.up_ids == -1).all()
    with pytest.raises(OptionError, match="numbered 0 to 47, got 99"):
        feature_cards(tiny_run, index, dictionary, features=[99])


def test_an_index_of_other_atoms_is_built_again(tiny_run: Run, rows: torch.Tensor) -> None:
    one = RandomDecoder(rows, 48, 5, generator=torch.Generator().manual_seed(1))
    first = open_index(tiny_run, SITE, one, name="again")
    stamp = first.path.stat().st_mtime_ns
    assert open_index(tiny_run, SITE, one, name="again").path.stat().st_mtime_ns == stamp
    other = RandomDecoder(rows, 48, 5, generator=torch.Generator().manual_seed(2))
    assert open_index(tiny_run, SITE, other, name="again").path.stat().st_mtime_ns > stamp


def test_a_text_of_the_run_is_answered_from_the_index(
    tiny_run: Run, dictionary: RandomDecoder, index: FeatureIndex, tiny_llama: Model
) -> None:
    ids = tiny_run.tokens.document(2)[:12]
    found = strongest_in_run(tiny_run, index, ids, n=5)
    assert found is not None
    strongest, places = found
    assert places.tolist() == find_tokens(tiny_run, ids).tolist()
    text = tiny_llama.decode(ids.tolist())
    firing = firing_on_text(tiny_llama, SITE, dictionary, text)
    peak = {int(v): 0.0 for v in firing.latents}
    for latent, value in zip(firing.latents, firing.values, strict=True):
        peak[int(latent)] = max(peak[int(latent)], abs(float(value)))
    for latent, value in zip(strongest.latents, strongest.peaks, strict=True):
        assert peak[int(latent)] == pytest.approx(abs(float(value)), rel=1e-2)
    assert strongest_in_run(tiny_run, index, np.array([1, 1, 1, 250])) is None


def test_paths_shrink_and_name_their_atoms(tiny_run: Run, rows: torch.Tensor) -> None:
    sae = make_sae("mp", d_in=32, d_sae=64, k=6)
    assert isinstance(sae, MpSae)
    sae.initialise(rows)
    found = pursuit_paths(tiny_run, SITE, sae, document=1, n_tokens=5, n_rows=100)
    assert found.atoms.shape == (5, 6)
    assert (np.diff(found.energy, axis=1) <= 1e-6).all()
    np.testing.assert_allclose(found.energy[:, 0], 1)
    start = int(tiny_run.tokens.offsets[1]) + 1
    assert found.text_ids.tolist() == tiny_run.tokens.ids[start : start + 5].tolist()
    with torch.no_grad():
        codes = sae.encode(rows[start : start + 5])
    for token in range(5):
        taken = set(found.atoms[token][found.atoms[token] >= 0].tolist())
        assert taken == set(codes[token].nonzero().flatten().tolist())
    assert found.steps_to_share.sum() == 100
    assert (np.diff(found.early_rank) >= 0).all()
    with pytest.raises(OptionError, match="document must be from 0"):
        pursuit_paths(tiny_run, SITE, sae, document=999)
