"""The registry: engines by name."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..probes import Model
from ..probes.errors import OptionError
from .engine import About, Engine
from .errors import UnknownEngineError
from .generation import Generation
from .prompts import Prompt
from .stopping import Stopping

E = TypeVar("E", bound=type[Engine])

_ENGINES: dict[str, type[Engine]] = {}


def register(engine: E) -> E:
    """Class decorator: make an engine known under its name.

    Raises:
        OptionError: The name is taken.
    """
    name = engine.about.name
    if name in _ENGINES:
        raise OptionError(f"An engine named {name!r} is registered already; choose another name.")
    _ENGINES[name] = engine
    return engine


def engines() -> tuple[About, ...]:
    """All engines, by name: paper, what they need, lossless or not."""
    return tuple(_ENGINES[name].about for name in sorted(_ENGINES))


def engine_class(name: str) -> type[Engine]:
    """The engine of a name.

    Raises:
        UnknownEngineError: There is none; near matches are named.
    """
    if name in _ENGINES:
        return _ENGINES[name]
    near = difflib.get_close_matches(name, _ENGINES, n=3)
    hint = f"Did you mean: {', '.join(near)}? " if near else ""
    raise UnknownEngineError(
        f"Unknown engine {name!r}. {hint}Engines here: {', '.join(sorted(_ENGINES))}."
    )


def make_engine(model: Model, name: str = "plain", **options: Any) -> Engine:
    """An engine by name, with its options as keywords.

    Raises:
        UnknownEngineError: There is no such engine.
        OptionError: It has no such option, or a value is of another type or out of range.
    """
    chosen = engine_class(name)
    known = {field.name for field in dataclasses.fields(chosen.Options)}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise OptionError(
            f"Engine {name!r} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}."
        )
    _require_types(chosen.Options, options)
    return chosen(model, chosen.Options(**options))


def _require_types(kind: type[Any], options: Mapping[str, Any]) -> None:
    hints = get_type_hints(kind)
    written = {field.name: field.type for field in dataclasses.fields(kind)}
    for name, value in options.items():
        if not _fits(value, hints[name]):
            raise OptionError(f"{name} must be {written[name]}, got {value!r}.")


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of an option's type; which of several words it is, the options check."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(one, inner[0]) for one in value)
    if hint in (int, float):
        number = Integral if hint is int else Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, hint)


def generate(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    *,
    engine: str = "plain",
    max_new_tokens: int = 128,
    stop: str | Sequence[str] = (),
    ignore_eos: bool = False,
    sites: Sequence[str] = (),
    chat: bool = False,
    bos: bool | None = None,
    **options: Any,
) -> list[Generation]:
    """Decode prompts with an engine chosen by name.

    Args:
        model: An opened model.
        prompts: Texts or rows of token ids.
        engine: Name of the engine; see `engines`.
        max_new_tokens: At most this many tokens each.
        stop: A string, or several, that end a text.
        ignore_eos: Whether to go on past end-of-sequence tokens.
        sites: Sites whose states are kept.
        chat: Whether prompts are put in the model's chat template.
        bos: Whether prompts begin with the beginning-of-sequence token.
        options: The engine's own options, such as temperature and seed.

    Raises:
        UnknownEngineError: There is no such engine.
        OptionError: An option is unknown or out of range.
        PromptError: A prompt is empty or too long.
    """
    ends = (stop,) if isinstance(stop, str) else tuple(stop)
    stopping = Stopping(max_new_tokens=max_new_tokens, stop=ends, ignore_eos=ignore_eos)
    chosen = make_engine(model, engine, **options)
    return chosen.generate(prompts, stopping=stopping, sites=sites, chat=chat, bos=bos)
