"""Engines: everything that turns a prompt into tokens under the same hooks."""

from .acceptance import (
    RULES,
    AcceptanceRule,
    KSequence,
    Match,
    PointMass,
    RecursiveRejection,
    Verdict,
    default_rule,
)
from .beliefs import Beliefs
from .cost import CostCurve, cost_curve
from .drafter import Drafter, Observation
from .drafters.prompt_lookup import PromptLookup
from .drafters.suffix import SuffixDecoding
from .drafters.token_recycling import TokenRecycling
from .engine import About, Engine, State
from .errors import DraftError, LearnedError, PromptError, RollBackError, UnknownEngineError
from .generation import Generation, Stats
from .plain import Plain
from .registry import engine_class, engines, generate, make_engine, register
from .rowlog import ROW_KINDS, RowLog
from .sampling import Sampler, SamplingOptions
from .saving import save_generations
from .speculative import Speculative, SpeculativeOptions
from .stopping import Stopping
from .target import Target
from .thrift import Thrift
from .trace import Emitted, Node, Step, Trace
from .tree import ROOT, DraftTree, SparseProbs, TreeBuilder

__all__ = [
    "ROOT",
    "ROW_KINDS",
    "RULES",
    "About",
    "AcceptanceRule",
    "Beliefs",
    "CostCurve",
    "DraftError",
    "DraftTree",
    "Drafter",
    "Emitted",
    "Engine",
    "Generation",
    "KSequence",
    "LearnedError",
    "Match",
    "Node",
    "Observation",
    "Plain",
    "PointMass",
    "PromptError",
    "PromptLookup",
    "RecursiveRejection",
    "RollBackError",
    "RowLog",
    "Sampler",
    "SamplingOptions",
    "SparseProbs",
    "Speculative",
    "SpeculativeOptions",
    "State",
    "Stats",
    "Step",
    "Stopping",
    "SuffixDecoding",
    "Target",
    "Thrift",
    "TokenRecycling",
    "Trace",
    "TreeBuilder",
    "UnknownEngineError",
    "Verdict",
    "cost_curve",
    "default_rule",
    "engine_class",
    "engines",
    "generate",
    "make_engine",
    "register",
    "save_generations",
]
