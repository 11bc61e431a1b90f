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
from .cost import CostCurve, choose_layout, cost_curve, forget_curve
from .custom_generate import as_custom_generate
from .drafter import Drafter, Observation
from .drafters.aded import Aded
from .drafters.aggressive import Aggressive
from .drafters.draft_chain import DraftChain
from .drafters.dyspec import DySpec
from .drafters.gad import Gad
from .drafters.hybrid import Hybrid
from .drafters.prompt_lookup import PromptLookup
from .drafters.rsd import RsdConstant, RsdStochastic
from .drafters.sequoia import Sequoia
from .drafters.stand import Stand, fit_template
from .drafters.suffix import SuffixDecoding
from .drafters.token_recycling import TokenRecycling
from .engine import About, Engine, EngineOptions
from .errors import DraftError, LearnedError, PromptError, RollBackError, UnknownEngineError
from .generation import Generation, Stats
from .layout import LAYOUTS, laid_out, layouts_for
from .learned import load_learned, save_learned
from .loop import State
from .pearl import Pearl
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
    "LAYOUTS",
    "ROOT",
    "ROW_KINDS",
    "RULES",
    "About",
    "AcceptanceRule",
    "Aded",
    "Aggressive",
    "Beliefs",
    "CostCurve",
    "DraftChain",
    "DraftError",
    "DraftTree",
    "Drafter",
    "DySpec",
    "Emitted",
    "Engine",
    "EngineOptions",
    "Gad",
    "Generation",
    "Hybrid",
    "KSequence",
    "LearnedError",
    "Match",
    "Node",
    "Observation",
    "Pearl",
    "Plain",
    "PointMass",
    "PromptError",
    "PromptLookup",
    "RecursiveRejection",
    "RollBackError",
    "RowLog",
    "RsdConstant",
    "RsdStochastic",
    "Sampler",
    "SamplingOptions",
    "Sequoia",
    "SparseProbs",
    "Speculative",
    "SpeculativeOptions",
    "Stand",
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
    "as_custom_generate",
    "choose_layout",
    "cost_curve",
    "default_rule",
    "engine_class",
    "engines",
    "fit_template",
    "forget_curve",
    "generate",
    "laid_out",
    "layouts_for",
    "load_learned",
    "make_engine",
    "register",
    "save_generations",
    "save_learned",
]
