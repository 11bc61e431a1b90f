"""Superposition: effective features of layers."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, dots, lines, points
from ..figure import Figure
from ..section import Context, Section, Stored, Tile
from ..theme import SERIES
from ..tokens import label


def superposition_layers(stored: Stored, context: Context) -> Section:
    """Section of the result kind `superposition_layers`."""
    names = [label(str(site), longest=40) for site in stored.sites]
    n = f"{stored.n_documents} documents, {int(stored.n_rows.max())} tokens per site"
    settled = [int(i) for i in np.argsort(stored.place) if stored.place[i] > 0]
    refused = [names[i] for i in range(len(names)) if stored.place[i] == 0]
    order = "No layer is ranked: F(n) still rises everywhere."
    if settled:
        order = (
            f"Most effective features: {names[settled[0]]}, {stored.features[settled[0]]:.0f} "
            f"({_between(stored, settled[0])})"
        )
        order += f"; fewest: {names[settled[-1]]}, {stored.features[settled[-1]]:.0f}."
    if refused and settled:
        order += f" Not ranked, since F(n) still rises: {', '.join(refused)}."
    figures = [_profile(stored, names, order, n), _curve(stored, names, n)]
    figures += [_dimensions(stored, names, n), _usage(stored, names, n)]
    return Section(
        id=stored.name,
        title="Effective features by layer",
        chapter="Features",
        intro=(
            "F = exp(entropy of a dictionary's activation mass) counts features as if all were used "
            f"alike (arXiv 2512.13568). Every site has a ReLU dictionary trained with one recipe: "
            f"{stored.n_latents} latents, penalty {stored.l1:g}, {stored.n_steps} steps. "
            f"{stored.caveat}"
        ),
        figures=tuple(figures),
        tiles=(
            Tile(
                label="effective features",
                value=f"{np.nanmin(stored.features):.0f}-{np.nanmax(stored.features):.0f}",
                meaning="F over the sites read, through dictionaries trained alike.",
                href=f"#{stored.name}-profile",
            ),
        ),
        verdict=order if settled else "",
        warnings=tuple(_warnings(stored, names)),
    )


def _between(stored: Stored, row: int) -> str:
    return f"{stored.features_low[row]:.0f} to {stored.features_high[row]:.0f}"


def _warnings(stored: Stored, names: list[str]) -> list[str]:
    poor = [name for name, fvu in zip(names, stored.fvu, strict=True) if fvu > 0.5]
    if not poor:
        return []
    return [f"Dictionaries leave over half of the variance unexplained at {', '.join(poor)}."]


def _profile(stored: Stored, names: list[str], reading: str, n: str) -> Figure:
    rows = as_rows(
        site=names,
        **{"effective features": stored.features},
        low=np.where(np.isnan(stored.features_low), stored.features, stored.features_low),
        high=np.where(np.isnan(stored.features_high), stored.features, stored.features_high),
    )
    drawn = [row for row in rows if row["effective features"] is not None]
    data = {
        "site": names,
        "F": stored.features.tolist(),
        "low": stored.features_low.tolist(),
        "high": stored.features_high.tolist(),
        "psi (not calibrated)": stored.psi.tolist(),
        "place": [str(p) if p else "still rises" for p in stored.place.tolist()],
        "rise per doubling": stored.rise.tolist(),
        "FVU": stored.fvu.tolist(),
        "L0": stored.l0.tolist(),
        "alive (F_0)": stored.alive.tolist(),
        "participation (F_2)": stored.participation.tolist(),
        "rows left out": stored.n_dropped.tolist(),
    }
    if np.isfinite(stored.matched).any():
        data[f"F at FVU {stored.match_fvu:g}"] = stored.matched.tolist()
    return Figure(
        id=f"{stored.name}-profile",
        question="Which layers carry most features?",
        reading=reading,
        chart=dots(drawn, y="site", x="effective features", low="low", high="high"),
        data=data,
        n=n,
        interval="95 % bootstrap over documents, corrected for its bias: it may lie above F",
        source=f"{stored.source}/features",
    )


def _curve(stored: Stored, names: list[str], n: str) -> Figure:
    chosen = _spread(len(names))
    sizes = len(stored.curve_documents)
    rows = as_rows(
        **{
            "log2 of documents read": np.tile(np.log2(stored.curve_documents), len(chosen)),
            "effective features": stored.curve[chosen].ravel(),
        },
        site=np.repeat([names[i] for i in chosen], sizes),
    )
    worst = int(np.nanargmax(stored.rise)) if np.isfinite(stored.rise).any() else 0
    return Figure(
        id=f"{stored.name}-curve",
        question="Has F settled?",
        reading=f"The last doubling of documents adds at most {stored.rise[worst]:.1%} "
        f"({names[worst]}); layers are ranked up to 2 %.",
        chart=lines(
            [row for row in rows if row["effective features"] is not None],
            x="log2 of documents read",
            y="effective features",
            series="site",
        ),
        data={"documents": stored.curve_documents.tolist()}
        | {name: row.tolist() for name, row in zip(names, stored.curve, strict=True)},
        n=n + "; means over random orders",
        source=f"{stored.source}/curve",
        notes=_left_out(len(names), chosen),
    )


def _dimensions(stored: Stored, names: list[str], n: str) -> Figure:
    finite = np.isfinite(stored.features) & np.isfinite(stored.two_nn)
    r = (
        np.corrcoef(stored.features[finite], stored.two_nn[finite])[0, 1]
        if finite.sum() > 2
        else np.nan
    )
    rows = as_rows(**{
        "intrinsic dimension (TwoNN)": stored.two_nn[finite],
        "effective features": stored.features[finite],
    })
    return Figure(
        id=f"{stored.name}-dimension",
        question="Do layers with more features have a higher intrinsic dimension?",
        reading=f"Correlation over {int(finite.sum())} sites: {r:.2f}."
        if np.isfinite(r)
        else f"{int(finite.sum())} sites are too few for a correlation.",
        chart=points(rows, x="intrinsic dimension (TwoNN)", y="effective features"),
        data={
            "site": names,
            "F": stored.features.tolist(),
            "TwoNN": stored.two_nn.tolist(),
            "low": stored.two_nn_low.tolist(),
            "high": stored.two_nn_high.tolist(),
            "participation ratio of the covariance": stored.linear_dimension.tolist(),
        },
        n=n,
        interval="95 %, as if points were independent (TwoNN)",
        source=f"{stored.source}/two_nn",
    )


def _usage(stored: Stored, names: list[str], n: str) -> Figure:
    chosen = _spread(len(names))
    ranks = np.arange(1, stored.shares.shape[1] + 1)
    keep = np.unique(np.geomspace(1, len(ranks), 40).astype(int)) - 1
    rows = as_rows(
        **{
            "log10 of the rank": np.tile(np.log10(ranks[keep]), len(chosen)),
            "budget share": stored.shares[chosen][:, keep].ravel(),
        },
        site=np.repeat([names[i] for i in chosen], len(keep)),
    )
    top = stored.shares[:, 0]
    return Figure(
        id=f"{stored.name}-usage",
        question="How evenly are latents used?",
        reading=f"The busiest latent takes {np.nanmin(top):.1%} to {np.nanmax(top):.1%} of the budget.",
        chart=lines(
            [row for row in rows if row["budget share"]],
            x="log10 of the rank",
            y="budget share",
            series="site",
            log=True,
        ),
        data={"rank": ranks.tolist()}
        | {name: row.tolist() for name, row in zip(names, stored.shares, strict=True)},
        n=n,
        source=f"{stored.source}/shares",
        notes=_left_out(len(names), chosen),
    )


def _spread(n: int) -> list[int]:
    """At most five of n, evenly."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, len(SERIES)))})


def _left_out(n: int, chosen: list[int]) -> tuple[str, ...]:
    if len(chosen) == n:
        return ()
    return (f"{len(chosen)} of {n} sites are drawn; the table has all",)
