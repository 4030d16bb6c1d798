"""Several processes that share each batch, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import registry

ROOT = Path(__file__).parent.parent


def run(folder: Path, count: int) -> Any:
    folder.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "tests.processes", str(folder)],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(tmp_path_factory.mktemp("processes") / "two", 2)


def test_two_processes_follow_the_curve_of_one(two: Any, tmp_path: Path) -> None:
    np.testing.assert_allclose(two["curve"], run(tmp_path / "one", 1)["curve"], rtol=1e-4)


def test_every_training_leaves_the_processes_with_equal_weights(two: Any) -> None:
    assert two["same"] == dict.fromkeys(registry.names("training"), True)
