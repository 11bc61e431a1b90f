"""How a dictionary learned: the section says what the result holds."""

from pathlib import Path

import numpy as np

from fluoroscope.probes import Provenance, create_run, open_run
from fluoroscope.reports import build_report
from fluoroscope.sae.result import SaeTraining


def test_the_section_tells_the_end_of_the_curves(tmp_path: Path) -> None:
    curve = np.array([0.9, 0.25, 0.125])
    result = SaeTraining(
        name="<i>mine</i>", architecture="topk", site="layers.3.resid_post", target_site=None,
        options={}, learning={}, source={}, scale=1.0, norm_limit=9.0, seed=0, n_steps=1200,
        n_rows=2048, rows_per_s=1500.0, step=np.array([1, 25, 50]), loss=curve, fvu=curve,
        l0=curve * 100, dead=curve, learning_rate=curve, final_fvu=0.125, final_l0=12.5,
        final_dead=0.25,
    )  # fmt: skip
    path = tmp_path / "run.h5"
    with create_run(path, provenance=Provenance()) as writer:
        writer.close()
    open_run(path).add_result("sae_mine", result)
    page = build_report(path).read_text(encoding="utf-8")
    said = (
        "Over the last tenth 12.5% of the variance is unexplained by 12.5 latents a row; 25.0% of"
    )
    assert said in page
    assert "1,200 steps, 2,048 rows" in page
    assert "<i>mine</i>" not in page
