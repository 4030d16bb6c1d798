"""What the papers lead one to expect of trained networks, at the size of a test: through the whole pipeline."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from scipy.stats import spearmanr

from tests.planrunner import run_plan


def test_flipped_data_flip_the_margins(tmp_path: Path) -> None:
    """ "Hold me tight!" (NeurIPS 2020): reverse the frequencies of the data, and the curve of margins is reversed."""
    config = {
        "datasets": {
            "normal": {"source": "digits", "test_share": 0.25, "evaluation": 400},
            "flipped": {"source": "digits", "test_share": 0.25, "evaluation": 400, "frequency": "flip"},
        },
        "architectures": {"mlp": {"model": "mlp", "depth": 2, "width": 128}},
        "trainings": {
            "adversarial": {
                "norm": "l2",
                "epsilon": 0.3,
                "steps": 3,
                "epochs": 20,
                "batch_size": 64,
                "learning_rate": 0.05,
                "warmup_epochs": 2,
            }
        },
        "measurements": {"margin": {"method": "dct_margin", "size": 2, "step": 1, "mode": "deepfool"}},
    }
    table = pd.read_parquet(run_plan(config, tmp_path) / "tables/dct_margin.parquet")
    assert table["converged"].mean() > 0.9
    right = table[table["correct"]]
    curves = right.pivot_table(index="block", columns="dataset", values="margin", aggfunc="median")
    assert len(curves) == 7
    backwards = spearmanr(curves["normal"], curves["flipped"].to_numpy()[::-1]).statistic
    assert backwards > 0.8
    assert spearmanr(curves["normal"], curves["flipped"]).statistic < backwards - 0.2  # the curve has two ends
