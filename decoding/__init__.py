"""Engines: everything that turns a prompt into tokens under the same hooks."""

from .engine import About, Engine, State
from .errors import PromptError, RollBackError, UnknownEngineError
from .generation import Generation, Stats
from .plain import Plain
from .registry import engine_class, engines, generate, make_engine, register
from .sampling import Sampler, SamplingOptions
from .saving import save_generations
from .stopping import Stopping
from .target import Target
from .trace import Emitted, Node, Step, Trace

__all__ = [
    "About",
    "Emitted",
    "Engine",
    "Generation",
    "Node",
    "Plain",
    "PromptError",
    "RollBackError",
    "Sampler",
    "SamplingOptions",
    "State",
    "Stats",
    "Step",
    "Stopping",
    "Target",
    "Trace",
    "UnknownEngineError",
    "engine_class",
    "engines",
    "generate",
    "make_engine",
    "register",
    "save_generations",
]
