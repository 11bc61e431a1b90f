"""Every reading of the room over one run file, step by step, so that what is done can be kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..errors import TooFewTokensError
from ..model import Model
from ..results import Result
from ..runfile import Run
from .alignment_result import spectral_alignment
from .flow_options import FlowOptions
from .flow_reading import information_flow
from .flow_result import by_layer
from .geometry_result import head_geometry
from .loss import LossDecomposition, decompose_loss
from .predictions import Predictions, read_predictions

Progress = Callable[[int, int, str], None]

XRAY_LAYERS = 6
"""Layers whose information an X-ray measures."""
RESULTS = (
    "information_predictions",
    "information_loss",
    "information_geometry",
    "information_alignment",
    "information_flow",
)
"""Names the results are stored under, in order."""


def information_readings(
    model: Model,
    run: Run,
    *,
    n_tokens: int | None = None,
    sites: Sequence[str] | None = None,
    options: FlowOptions | None = None,
    source_entropy: float | None = None,
    again: bool = False,
    keep: bool = False,
    progress: Progress | None = None,
) -> Iterator[tuple[str, Result]]:
    """Results for a run file, by name, each as soon as it is there.

    Results that the run holds already are not computed again, whatever the options, unless asked for;
    the loss is, where its predictions are read anew or the source's entropy is another.

    Args:
        model: The model of the run.
        run: A run file with rows of `layers.*.resid_post`, the last layer among them.
        n_tokens: Rows read, rounded down to whole windows; None for all.
        sites: Layers' sites for the flow; None for all the run holds.
        options: How the flow is measured.
        source_entropy: Entropy per token of what the documents were drawn from, where known (nats).
        again: Whether results that are there are computed anew.
        keep: Whether finished layers of the flow are kept in the run file, so that the next reading
            with the same options goes on with the others; `drop_parts` takes them out.
        progress: Called all along, with the stage in words.

    Raises:
        MissingResultError: The run lacks the last states.
        OptionError: Too few documents, or no layer's rows.
        TooFewTokensError: Too few tokens; says how many are needed.
    """
    n_rows = whole_windows(run, n_tokens)
    held = set() if again else set(run.results)
    predictions = _kept(run, n_rows) if held >= {RESULTS[0], RESULTS[1]} else None
    loss = None if predictions is None else run.result(RESULTS[1], LossDecomposition)
    if predictions is None or loss is None:
        held = set()  # what is there is about other rows
        predictions, mixture = read_predictions(model, run, n_rows=n_rows, progress=progress)
        loss = decompose_loss(run, predictions, mixture, source_entropy=source_entropy)
        yield RESULTS[0], predictions
        yield RESULTS[1], loss
    elif source_entropy is not None and source_entropy != loss.source_entropy:
        loss = loss.against(source_entropy)
        yield RESULTS[1], loss
    if "information_geometry" not in held:
        yield RESULTS[2], head_geometry(model, run, n_rows=n_rows, progress=progress)
    if "information_alignment" not in held:
        yield RESULTS[3], spectral_alignment(model, run, n_rows=n_rows, progress=progress)
    if "information_flow" not in held:
        yield (
            RESULTS[4],
            information_flow(
                model,
                run,
                predictions,
                options,
                sites=sites,
                loss=loss,
                keep=keep,
                progress=progress,
            ),
        )


def xray_readings(
    model: Model, run: Run, *, again: bool = False, progress: Progress | None = None
) -> tuple[dict[str, Result], list[str]]:
    """What an X-ray of a model adds, from the states it captured anyway.

    Six layers at most, 128 classes, one depth. Readouts see as many directions of a state as the tokens
    allow, and estimators that the tokens do not do for are left out; the flow says which. Where they do
    not even do for the smallest readout, everything but the flow is given.

    Args:
        model: The model of the run.
        run: A run file with rows of `layers.*.resid_post`.
        again: Whether results that are there are computed anew.
        progress: Called all along.

    Returns:
        Results by name, and why others are missing.
    """
    layers = by_layer(run.sites)
    shown = layers[:: max(len(layers) // XRAY_LAYERS, 1)][: XRAY_LAYERS - 1] + layers[-1:]
    options = FlowOptions(
        n_futures=3, depths=1, n_classes=128, n_clusters=8, coarse_classes=8, world_states=16
    )
    found: dict[str, Result] = {}
    readings = information_readings(
        model,
        run,
        sites=list(dict.fromkeys(shown)),
        options=options,
        again=again,
        progress=progress,
    )
    try:
        found.update(readings)
    except TooFewTokensError as error:
        return found, [str(error)]
    return found, []


def whole_windows(run: Run, n_tokens: int | None) -> int:
    """Rows of the first windows that hold at most `n_tokens` (at least one window)."""
    offsets = run.tokens.offsets
    if n_tokens is None:
        return int(offsets[-1])
    return int(max(offsets[offsets <= n_tokens].max(), offsets[1]))


def _kept(run: Run, n_rows: int) -> Predictions | None:
    """Predictions in the run file, if they are of as many rows."""
    found = run.result(RESULTS[0], Predictions)
    return found if len(found.loss) == n_rows else None
