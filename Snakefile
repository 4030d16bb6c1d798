# Boundary Atlas: config, validation, includes, targets. `snakemake --cores 2` runs everything.
import os
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.1")

# A config named on the command line stands in place of config.yaml; Snakemake alone would merge the two.
if not workflow.config_settings.configfiles:

    configfile: "config.yaml"


# The stages run as `python -m pipeline`, also from another working folder.
sys.path.insert(0, str(workflow.basedir))
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(workflow.basedir), os.environ.get("PYTHONPATH")])
)

from pipeline.archives import ARCHIVES
from pipeline import server
from pipeline.contracts import UserError
from pipeline.outputlock import reserve
from workflow import captions, datasets, preflight
from workflow.common import Plan, guard

try:
    PLAN = Plan(config, " + ".join(Path(file).name for file in workflow.configfiles))
    guard(PLAN)
except UserError as error:
    raise WorkflowError(str(error))

# How many jobs may share a GPU, for `pipeline.leases`.
os.environ["BOUNDARY_ATLAS_JOBS_PER_GPU"] = str(PLAN.config["jobs_per_gpu"])
PYTHON = sys.executable
DEVICE = PLAN.config["device"]
CHECKPOINT_MINUTES = PLAN.config["checkpoint_minutes"]
GPUS = int(DEVICE != "cpu")
RESULTS = str(PLAN.results)
STARTED = time.monotonic()


report: "workflow/report/workflow.rst"


wildcard_constraints:
    dataset="|".join(PLAN.config["datasets"]),
    split="train|evaluation",
    classifier=PLAN.pattern(classifier for _, classifier in PLAN.classifiers),
    archive=PLAN.pattern(ARCHIVES),
    part="[A-Za-z0-9_-]+",
    corruption=PLAN.pattern(PLAN.config["corruptions"]),
    attack=PLAN.pattern(PLAN.jobs["attack"]),
    measurement=PLAN.pattern(PLAN.jobs["measure"]),
    kind=PLAN.pattern(PLAN.kinds),


include: "workflow/rules/prepare.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/perturb.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/selftest.smk"
include: "workflow/rules/report.smk"


localrules:
    all,
    data,
    models,
    images,
    tables,


rule all:
    default_target: True
    input:
        rules.report.output,
    message:
        "all is there"


rule data:
    input:
        PLAN.targets("prepare"),


rule models:
    input:
        PLAN.targets("train"),


rule images:
    input:
        PLAN.targets("corrupt") + PLAN.targets("attack"),


rule tables:
    input:
        PLAN.targets("collect"),


# On one machine the jobs are forked from a process that has imported what they need; elsewhere they import it.
onstart:
    try:
        reserve(PLAN.results)  # until this process ends
        preflight.check(workflow)
    except UserError as error:
        raise WorkflowError(str(error))
    if PLAN.config["fork_jobs"] and workflow.local_exec:
        server.start()


onerror:
    print(
        f"What is finished is kept. Mend what the logs in {RESULTS}/logs say, and start the same command again."
    )


onsuccess:
    board = Path(f"{RESULTS}/leaderboard.md")
    if board.is_file():
        print(f"\n{board.read_text(encoding='utf-8')}")
        print(
            f"Report: {RESULTS}/report/index.html   Leaderboard: {board}   Tables: {RESULTS}/tables/"
        )
    print(f"Done in {time.monotonic() - STARTED:.0f} s.")
