"""Python imports this at its start, where the test puts it on the path: of each stage's process it notes the GPUs.

A line of JSON goes to the folder ATLAS_TEST_RECORDS. A lock, held until the process ends, on a file for each GPU shows
whether another process has the same one. The first job whose spec holds ATLAS_TEST_STUCK never begins.
"""

import fcntl
import json
import os
import sys
import time
from pathlib import Path

LOCKED = []  # open files; the locks end with them


def _exclusive(folder: Path, device: str) -> bool:
    file = (folder / f"device-{device}").open("w")
    LOCKED.append(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _record() -> None:
    words = sys.orig_argv
    if words[1:3] != ["-m", "pipeline"] or "SLURM_JOB_ID" not in os.environ:
        return
    folder = Path(os.environ["ATLAS_TEST_RECORDS"])
    devices = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    exclusive = [_exclusive(folder, device) for device in devices]
    job = os.environ["SLURM_JOB_ID"]
    entry = {"job": job, "stage": words[3], "out": words[words.index("--out") + 1], "devices": devices}
    (folder / f"{job}.json").write_text(json.dumps(entry | {"exclusive": all(exclusive)}))
    stuck = os.environ.get("ATLAS_TEST_STUCK")
    if stuck and any(stuck in word for word in words):
        try:
            (folder / "stuck").touch(exist_ok=False)
        except FileExistsError:
            return
        time.sleep(3600)


_record()
