import numpy as np
import pytest

from fluoroscope.sae.joint.captions import DIGITS, captioned_digits, measure
from fluoroscope.sae.joint.towers import TowerOptions, train_towers


def test_measurements_of_drawn_strokes() -> None:
    upright, right, left = np.zeros((3, 8, 8))
    upright[1:7, 3] = 1
    for step in range(6):
        right[6 - step, 1 + step] = 1  # from the lower left to the upper right
        left[1 + step, 1 + step] = 1
    found = measure(np.stack([upright, right, left]))
    np.testing.assert_allclose(found[:, 1], [0, 1, -1], atol=1e-9)
    np.testing.assert_allclose(found[:, 0], [6 / 64] * 3)
    np.testing.assert_allclose(found[:, 2], [0, np.std(range(6)), np.std(range(6))])
    np.testing.assert_allclose(found[:, 3], [3.5] * 3)


def test_captions_name_their_own_digit_and_true_properties() -> None:
    data = captioned_digits(shifts=False)
    assert len(data.images) == 1797
    assert len(data.captions) == 5 * 1797
    for number in range(0, len(data.captions), 97):
        image, words = data.image_of[number], data.captions[number].split()
        named = [d for d in range(10) if set(DIGITS[d]) & set(words)]
        assert named == [data.labels[image]]
        if "bold" in words:
            assert data.styles[image, 0] == 2
        if "upright" in words:
            assert data.styles[image, 1] == 1
    assert captioned_digits(shifts=False).captions == data.captions


@pytest.mark.slow
def test_towers_bring_captions_to_their_digits() -> None:
    space = train_towers(captioned_digits(shifts=False), TowerOptions(n_steps=400))
    # Chance is 0.1; over 1,700 held-out captions 0.8 is 90 standard errors away.
    assert space.retrieval > 0.8
    np.testing.assert_allclose(space.images.norm(dim=1), 1, atol=1e-5)
