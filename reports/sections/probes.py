"""Linear probes."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..tokens import label


def linear_probe(stored: Stored, context: Context) -> Section:
    """Section of the result kind `linear_probe`."""
    sites = [label(str(site), longest=60) for site in stored.sites]
    order = np.arange(len(sites))
    names = ("probe", "control task", "token identity", "majority class")
    columns = (
        stored.accuracy,
        stored.control,
        np.full(len(sites), stored.token_identity),
        np.full(len(sites), stored.majority),
    )
    rows = as_rows(
        site=np.tile(order, len(names)),
        accuracy=np.concatenate(columns),
        which=np.repeat(names, len(sites)),
    )
    best = int(np.argmax(stored.selectivity))
    wanted = label(str(stored.label))
    figure = Figure(
        id=f"{stored.name}-accuracy",
        question=f"Is {wanted} linearly decodable?",
        reading=f"Most selective at {sites[best]}: accuracy {stored.accuracy[best]:.2f} "
        f"({stored.accuracy_low[best]:.2f} to {stored.accuracy_high[best]:.2f}), control "
        f"{stored.control[best]:.2f}; from the token alone {stored.token_identity:.2f}.",
        chart=lines(rows, x="site", y="accuracy", series="which"),
        data={
            "site": sites,
            "accuracy": stored.accuracy.tolist(),
            "low": stored.accuracy_low.tolist(),
            "high": stored.accuracy_high.tolist(),
            "control": stored.control.tolist(),
            "selectivity": stored.selectivity.tolist(),
        },
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
        "random labels per token (arXiv 1909.03368).",
        figures=(figure,),
    )
