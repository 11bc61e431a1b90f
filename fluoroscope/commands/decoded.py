"""What `fluoroscope decode` has decoded: taken from a run file, and kept there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..running import Terminal


class Book:
    """The generations of a command: those that the run file holds, and those that are added.

    Args:
        terminal: Told how many were kept.
        engine: What decodes.
        rules: When it stops.
        sites: Sites whose states are kept.
        keys: Tokens of each prompt.
        run: The run file, if it is there.
        again: Whether to decode anew what it holds.
    """

    def __init__(
        self,
        terminal: Terminal,
        engine: Any,
        rules: Any,
        sites: Sequence[str],
        keys: list[tuple[int, ...]],
        *,
        run: Any,
        again: bool,
    ) -> None:
        from ..decoding.kept import differing, identity_of, kept_generations

        self._terminal, self._engine = terminal, engine
        self._identity = identity_of(engine, rules, sites)
        self.made: list[Any] = [None] * len(keys)
        self._readings: dict[int, Any] = {}
        self._n_decoded, self._changed = 0, False
        if run is None or again:
            return
        held: dict[tuple[int, ...], list[Any]] = {}
        for one in kept_generations(run, engine, self._identity):
            held.setdefault(one.generation.prompt_ids, []).append(one)
        for number, key in enumerate(keys):
            if turns := held.get(key):
                # A prompt given twice was decoded twice: its turns come in order, the last again.
                one = turns.pop(0) if len(turns) > 1 else turns[0]
                self._changed |= any(one.generation is made for made in self.made)
                self.made[number], self._readings[number] = one.generation, one.readings
        name = engine.about.name
        if self._readings:
            terminal.say(
                f"Kept from before: {len(self._readings)} of {len(keys)} prompts; --again decodes "
                "them anew."
            )
        elif others := differing(run, engine, self._identity):
            terminal.say(
                f"The run file's trace of {name} was made with other {', '.join(others)}; it is made "
                "anew."
            )

    def add(self, number: int, generation: Any) -> None:
        """A prompt was decoded."""
        self.made[number] = generation
        self._n_decoded += 1
        self._changed = True

    def keep(self, *, learned: Path | None, output: Path | None) -> None:
        """Write what was learned and decoded to the files asked for, if any of it is new."""
        from ..decoding import save_generations, save_learned
        from .decode import open_or_make

        places = [number for number, one in enumerate(self.made) if one is not None]
        done = [self.made[number] for number in places]
        if self._n_decoded and learned is not None:
            save_learned(self._engine, learned)
            self._terminal.wrote(learned)
        if self._changed and output is not None:
            readings = {
                at: self._readings[number]
                for at, number in enumerate(places)
                if number in self._readings
            }
            with self._terminal.track("Reading rows", "layers") as progress:
                run = open_or_make(output, self._engine.model)
                save_generations(
                    run, self._engine, done, identity=self._identity, readings=readings,
                    progress=progress,
                )  # fmt: skip
            self._terminal.wrote(output)
        if 0 < len(done) < len(self.made):
            self._terminal.say(f"{len(done)} of {len(self.made)} prompts were decoded and kept.")
