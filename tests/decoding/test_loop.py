"""The one loop, driven by an engine that emits several tokens a step: cutting, counting, ending."""

from typing import Any

import pytest
import torch

from fluoroscope.decoding import About, Engine, SamplingOptions, State, Step, Stopping, Target
from fluoroscope.decoding.trace import Emitted, Node

PER_STEP = 3


class Counting(State):
    """Emits 10, 11, 12, then 13, 14, 15, ... whatever the model says; one node per token."""

    def __init__(self, target: Target, ended: list[str]) -> None:
        self.target, self._ended, self._next = target, ended, 10
        self.rooms: list[int] = []

    def step(self, room: int) -> Step:
        self.rooms.append(room)
        tokens = range(self._next, self._next + PER_STEP)
        self._next += PER_STEP
        emitted = tuple(
            Emitted(id=t, kind="accepted", prob=0.5, entropy=0.1, rank=0, top_ids=(t,),
                    top_probs=(1.0,))
            for t in tokens
        )  # fmt: skip
        nodes = tuple(
            Node(token=t, parent=-1, depth=1, draft_prob=0.5, target_prob=0.5, entropy=0.0,
                 accepted=t % 2 == 0)
            for t in tokens
        )  # fmt: skip
        return Step(emitted=emitted, nodes=nodes, seconds=0.25, seconds_draft=0.1)

    def end(self) -> None:
        self._ended.append("ended")


class Fixed(Engine):
    """An engine of the tests alone; it is not registered."""

    about = About("fixed", "Counts.", None, lossless=False, needs="nothing")
    Options = SamplingOptions

    def begin(self, prompt_ids: torch.Tensor, *, processors: Any = ()) -> Counting:
        target = Target(self.model)
        target.prefill(prompt_ids)
        self.ended: list[str] = []
        self.state = Counting(target, self.ended)
        return self.state


@pytest.fixture
def engine(tiny_llama) -> Fixed:
    return Fixed(tiny_llama)


def test_a_stop_in_the_middle_of_a_step_cuts_it_there(engine: Fixed, tiny_llama) -> None:
    tiny_llama.module.generation_config.eos_token_id = 14
    (made,) = engine.generate("ab", stopping=Stopping(max_new_tokens=50))
    assert made.token_ids == (10, 11, 12, 13, 14)
    assert made.stop_reason == "eos"
    assert [len(step.emitted) for step in made.trace.steps] == [3, 2]
    assert [token.id for token in made.trace.tokens] == [10, 11, 12, 13, 14]
    last = made.trace.steps[-1]
    assert (last.seconds, last.seconds_draft, len(last.nodes)) == (0.25, 0.1, 3), "the rest stays"
    assert made.stats.n_emitted == 5
    assert made.stats.n_drafted == 6
    assert made.stats.n_accepted == 3
    assert made.stats.n_forward == 1


def test_steps_are_told_how_many_tokens_may_come(engine: Fixed) -> None:
    engine.generate("ab", stopping=Stopping(max_new_tokens=5, ignore_eos=True))
    assert engine.state.rooms == [5, 2]


def test_the_state_is_told_of_its_end_also_when_it_is_interrupted(engine: Fixed) -> None:
    engine.generate("ab", stopping=Stopping(max_new_tokens=4, ignore_eos=True))
    assert engine.ended == ["ended"]
    stream = engine.stream("ab", stopping=Stopping(max_new_tokens=9, ignore_eos=True))
    assert next(stream).id == 10
    assert engine.ended == []
    stream.close()
    assert engine.ended == ["ended"]


def test_a_stop_string_is_cut_from_the_text_and_its_tokens_stay(engine: Fixed, tiny_llama) -> None:
    piece = tiny_llama.decode([12])
    (made,) = engine.generate("ab", stopping=Stopping(stop=(piece,), ignore_eos=True))
    assert made.token_ids[-1] == 12
    assert made.text == tiny_llama.decode([10, 11])
    assert made.stop_reason == "stop_string"
