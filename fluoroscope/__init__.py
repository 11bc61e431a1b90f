"""fluoroscope: watch a language model think while it decodes.

The short public API. Names load when first used, so importing the package costs nothing:

    import fluoroscope as fs

    model = fs.open_model()
    with fs.capture(model, "layers.*.resid_post") as acts:
        model(model.encode("Summer is warm.")[None])
    print(acts)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .decoding import engines, generate
    from .probes import capture, capture_corpus, intervene, open_corpus, open_model, open_run
    from .reports import build_report, verdict_of

__all__ = [
    "build_report",
    "capture",
    "capture_corpus",
    "engines",
    "generate",
    "intervene",
    "open_corpus",
    "open_model",
    "open_run",
    "verdict_of",
]

_ROOM = {
    "build_report": "reports",
    "engines": "decoding",
    "generate": "decoding",
    "verdict_of": "reports",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ROOM.get(name, 'probes')}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
