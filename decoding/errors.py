"""Errors of the decoding room, below the tree in `probes/errors.py`."""

from ..probes.errors import FluoroscopeError, OptionError


class UnknownEngineError(FluoroscopeError, LookupError):
    """No engine of that name is registered; near matches are named."""


class PromptError(OptionError):
    """Nothing can be decoded from this: no tokens, too many, foreign ones, or no prompt at all."""


class RollBackError(FluoroscopeError, RuntimeError):
    """The model keeps a state that cannot be cut back, or cannot read several continuations at once."""


class DraftError(FluoroscopeError, ValueError):
    """A draft that makes no sense. Inside an engine it costs speed, never text."""


class LearnedError(FluoroscopeError, ValueError):
    """What an engine learned does not fit: another engine, another vocabulary, a damaged file."""
