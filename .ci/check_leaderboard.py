"""Check the leaderboard of the default run: a row for each classifier, numbers inside their intervals."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import pandas as pd
import yaml

config = yaml.safe_load(Path("config.yaml").read_text(encoding="utf-8"))
board = pd.read_parquet("results/leaderboard.parquet")
wanted = set(product(config["datasets"], config["architectures"], config["trainings"], config["seeds"]))
found = set(board[["dataset", "architecture", "training", "seed"]].itertuples(index=False, name=None))
problems = []
if found != wanted:
    problems.append(f"rows differ from the config: {sorted(found ^ wanted)}")
for low in (column for column in board if column.endswith("_low")):
    value, high = board[low.removesuffix("_low")], board[low.removesuffix("_low") + "_high"]
    if not ((board[low] <= value) & (value <= high)).all():
        problems.append(f"{low.removesuffix('_low')} is not inside its interval")
page = Path("results/report/index.html").read_text(encoding="utf-8")
if len(page) < 10_000:
    problems.append(f"the page has {len(page)} characters only")
print(f"leaderboard: {len(board)} rows, {len(problems)} problems", *problems, sep="\n")
sys.exit(bool(problems))
