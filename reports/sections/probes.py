"""Linear probes."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..tokens import label

PLACE = "site, by its row in the table"
TIMES = "compression (uniform code over this one)"


def linear_probe(stored: Stored, context: Context) -> Section:
    """Section of the result kind `linear_probe`."""
    sites = [label(str(site), longest=60) for site in stored.sites]
    order = np.arange(len(sites))
    curves = {
        "probe": stored.accuracy,
        "control task": stored.control,
        "token identity": np.full(len(sites), stored.token_identity),
        "majority class": np.full(len(sites), stored.majority),
    }
    untrained = stored.values.get("random_model")
    if untrained is not None:
        curves["random weights"] = untrained
    rows = as_rows(
        **{PLACE: np.tile(order, len(curves))},
        accuracy=np.concatenate(list(curves.values())),
        which=np.repeat(list(curves), len(sites)),
    )
    best = int(np.argmax(stored.selectivity))
    wanted = label(str(stored.label))
    figure = Figure(
        id=f"{stored.name}-accuracy",
        question=f"Is {wanted} linearly decodable?",
        reading=f"Most selective at {sites[best]}: accuracy {stored.accuracy[best]:.2f} "
        f"({stored.accuracy_low[best]:.2f} to {stored.accuracy_high[best]:.2f}), control "
        f"{stored.control[best]:.2f}; from the token alone {stored.token_identity:.2f}.",
        chart=lines(rows, x=PLACE, y="accuracy", series="which"),
        data={
            "site": sites,
            "accuracy": stored.accuracy.tolist(),
            "low": stored.accuracy_low.tolist(),
            "high": stored.accuracy_high.tolist(),
            "control": stored.control.tolist(),
            "selectivity": stored.selectivity.tolist(),
        }
        | ({} if untrained is None else {"random weights": untrained.tolist()}),
        n=f"{stored.n_train} tokens to train, {stored.n_test} to test in "
        f"{stored.n_test_documents} documents; split by document",
        interval="95 % bootstrap over documents",
        source=f"{stored.source}/accuracy",
    )
    return Section(
        id=stored.name,
        title=f"Linear probe: {wanted}",
        chapter="Text and tokens",
        intro="Logistic regression on standardised states. Selectivity is accuracy minus that on "
        "random labels per token (arXiv 1909.03368). Compression tells how easily labels are learned, "
        "not only how well in the end (arXiv 2003.12298).",
        figures=(figure, *_code(stored, sites)),
    )


def _code(stored: Stored, sites: list[str]) -> tuple[Figure, ...]:
    """Length of the labels' code; nothing for files from before it was measured."""
    compression = stored.values.get("compression")
    if compression is None:
        return ()
    best = int(np.argmax(compression))
    return (
        Figure(
            id=f"{stored.name}-code",
            question="How easily is it learned?",
            reading=f"Shortest code at {sites[best]}: {stored.codelength[best]:,.0f} bits for "
            f"{stored.n_train} labels, {compression[best]:.1f} times shorter than the uniform code.",
            chart=lines(
                as_rows(**{PLACE: np.arange(len(sites)), TIMES: compression}),
                x=PLACE,
                y=TIMES,
            ),
            data={
                "site": sites,
                "bits": stored.codelength.tolist(),
                "compression": compression.tolist(),
            },
            n=f"online coding of {stored.n_train} labels, documents shuffled once",
            source=f"{stored.source}/codelength",
        ),
    )
