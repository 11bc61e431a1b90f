"""When a generation ends: each reason, its order, and what is left of the text."""

import pytest

from fluoroscope.decoding import Stopping
from fluoroscope.decoding.stopping import Stopper, eos_ids
from fluoroscope.probes.errors import OptionError


def test_the_first_stop_string_in_the_text_cuts_not_the_first_in_the_list(tiny_llama) -> None:
    stopper = Stopper(tiny_llama, Stopping(stop=("zz", "b", "END")), 1)
    assert stopper.cut("aabbzz") == "aa"
    assert stopper.cut("zzb") == ""
    assert stopper.cut("aaEN") is None
    assert stopper.check(tiny_llama.encode("xxEN").tolist()) is None
    assert stopper.check(tiny_llama.encode("xxEND").tolist()) == "stop_string"


def test_stop_strings_longer_than_any_window_are_found(tiny_llama) -> None:
    """A hundred tokens, one for each byte."""
    long = "x" * 49 + "é" + "y" * 49
    stopper = Stopper(tiny_llama, Stopping(max_new_tokens=500, stop=(long,)), 1)
    told = tiny_llama.encode("before it " + long, bos=False).tolist()
    assert stopper.check(told) == "stop_string"
    assert stopper.check(told[:-1]) is None
    with pytest.raises(OptionError, match=r"tuple of strings, got 'END'; one is \('END',\)"):
        Stopping(stop="END")


def test_length_and_context_end_a_text_on_the_very_token(tiny_llama) -> None:
    stopper = Stopper(tiny_llama, Stopping(max_new_tokens=3), 1)
    assert [stopper.check([1] * n) for n in (1, 2, 3)] == [None, None, "max_new_tokens"]
    assert [stopper.room(n) for n in (0, 2, 3)] == [3, 1, 0]
    limit = tiny_llama.max_positions
    near = Stopper(tiny_llama, Stopping(max_new_tokens=50), limit - 2)
    assert [near.check([1] * n) for n in (1, 2)] == [None, "context"]
    assert near.room(0) == 2


def test_the_end_of_sequence_comes_before_other_reasons(tiny_llama) -> None:
    tiny_llama.module.generation_config.eos_token_id = [7, 9]
    assert eos_ids(tiny_llama) == {7, 9}
    rules = Stopping(max_new_tokens=1)
    assert Stopper(tiny_llama, rules, 1).check([9]) == "eos"
    assert Stopper(tiny_llama, Stopping(ignore_eos=True, max_new_tokens=1), 1).check([9]) == (
        "max_new_tokens"
    )
    assert Stopper(tiny_llama, Stopping(), 1).check([9, 5]) is None, "only the last token counts"


def test_ids_come_from_the_generation_config_then_the_config(tiny_llama) -> None:
    tiny_llama.module.generation_config.eos_token_id = None
    tiny_llama.config.eos_token_id = 11
    assert eos_ids(tiny_llama) == {11}
    tiny_llama.config.eos_token_id = None
    assert eos_ids(tiny_llama) == frozenset()
    tiny_llama.module.generation_config.eos_token_id = 4
    assert eos_ids(tiny_llama) == {4}


def test_impossible_rules_are_refused() -> None:
    with pytest.raises(OptionError, match="max_new_tokens must be at least 1, got 0"):
        Stopping(max_new_tokens=0)
    with pytest.raises(OptionError, match="stop string must not be empty"):
        Stopping(stop=("a", ""))
