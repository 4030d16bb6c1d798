"""The check before jobs go to Slurm, and the whole way on a throw-away Slurm with two made-up GPUs."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from pipeline import client, server
from pipeline.contracts import UserError
from tests.slurm.cluster import Cluster, missing, running
from tests.test_workflow import Checkout
from workflow import preflight
from workflow.common import Plan
from workflow.preflight import Node, Partition, Request, gpus_of, minutes_of, obstacle, request_of

ROOT = Path(__file__).parent.parent
NODES = """\
NodeName=a1 Arch=x86_64 CoresPerSocket=16 CPUAlloc=3 CPUEfctv=30 CPUTot=32 Gres=gpu:a100:4(S:0,1),shard:8 \
OS=Linux 6.1.0-18-amd64 #1 SMP PREEMPT Debian 6.1 RealMemory=257000 MemSpecLimit=1000 State=MIXED Partitions=gpu,all
NodeName=a2 CPUTot=32 Gres=gpu:a100:2,gpu:h200:1 RealMemory=128000 State=IDLE+DRAIN Partitions=gpu,all \
Reason=swap [root@2026-01-02T03:04:05] Gres=gpu:99 RealMemory=9
NodeName=c1 CPUTot=64 Gres=(null) RealMemory=64000 State=DOWN* Partitions=cpu,all

"""
PARTITIONS = """\
PartitionName=gpu AllowAccounts=ALL Default=NO MaxNodes=UNLIMITED MaxTime=1-00:00:00 MaxCPUsPerNode=UNLIMITED \
State=UP MaxMemPerNode=UNLIMITED
PartitionName=cpu Default=YES MaxTime=02:30:00 MaxCPUsPerNode=48 MaxMemPerNode=32000
PartitionName=all Default=NO MaxTime=UNLIMITED
PartitionName=empty MaxTime=INFINITE
"""


def asked(**given: Any) -> str | None:
    request = request_of("train digits/x", "train", given.pop("attempt", 1), given)
    return obstacle(request, preflight.parse_nodes(NODES), preflight.parse_partitions(PARTITIONS))


def test_nodes_and_partitions_are_read() -> None:
    assert preflight.parse_nodes(NODES) == [
        Node("a1", 30, 256000, {"a100": 4}, frozenset({"gpu", "all"})),
        Node("a2", 32, 128000, {"a100": 2, "h200": 1}, frozenset({"gpu", "all"}), there=False),
        Node("c1", 64, 64000, {}, frozenset({"cpu", "all"}), there=False),
    ]
    assert preflight.parse_partitions(PARTITIONS) == [
        Partition("gpu", minutes=1440),
        Partition("cpu", default=True, minutes=150, cpus=48, memory=32000),
        Partition("all"),
        Partition("empty"),
    ]
    assert preflight.parse_nodes("No nodes in the system\n") == preflight.parse_partitions("") == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("(null)", {}),
        ("", {}),
        ("gpu", {"": 1}),
        ("gpu:2", {"": 2}),
        ("gpu:h200", {"h200": 1}),
        ("gpu:h200:8(IDX:0-3,5)", {"h200": 8}),
        ("gpu:a:1,gpu:b:2,gpu:a:3,mps:400,gpumem:7", {"a": 4, "b": 2}),
    ],
)
def test_gpus_are_counted_by_type(text: str, found: dict[str, int]) -> None:
    assert gpus_of(text) == found


def test_times_are_read() -> None:
    given = ("00:30:00", "12:00:30", "7-01:00:00", "UNLIMITED", "INFINITE", "")
    assert [minutes_of(time) for time in given] == [30, 720.5, 10140, math.inf, math.inf, math.inf]


def test_resources_are_read_as_the_plug_in_does() -> None:
    given = {"gpu": 2, "gpu_model": "h200", "mem_mb_per_cpu": 500, "mem_mb": 7, "_cores": 3, "runtime": 60}
    assert request_of("j", "r", 2, given) == Request("j", "r", 2, 2, "h200", 3, 1500, 60)
    none = {"gpu": 0, "gpu_model": "h200", "mem_mb": 8000, "cpus_per_task": -1, "slurm_partition": "a,b"}
    assert request_of("j", "r", 1, none) == Request("j", "r", memory=8000, partitions=("a", "b"))
    assert request_of("j", "r", 1, {"gres": "gpu:a100:3"}) == Request("j", "r", gpus=3, model="a100")
    assert request_of("j", "r", 1, {"gpu": 3, "nodes": 2}) == Request("j", "r", gpus=2)
    assert request_of("j", "r", 1, {"mem_mb": "<TBD>", "runtime": "<TBD>"}) == Request("j", "r")


@pytest.mark.parametrize(
    "given",
    [
        {"mem_mb": 32000, "runtime": 150, "_cores": 48},  # the default partition's limits
        {"slurm_partition": "gpu", "gpu": 4, "mem_mb": 256000, "runtime": 1440, "_cores": 30},
        {"slurm_partition": "gpu", "gpu": 3},  # of mixed types
        {"slurm_partition": "gpu", "gpu": 1, "gpu_model": "h200", "mem_mb": 128000, "_cores": 32},
        {"slurm_partition": "cpu,all", "gpu": 4, "runtime": 10**6},  # either will do
        {"slurm_partition": "all", "_cores": 64},
        {},
    ],
)
def test_what_a_node_has_may_be_asked_for_also_while_it_is_down(given: dict[str, Any]) -> None:
    assert asked(**given) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"slurm_partition": "gpuu"},
            "asks for partition 'gpuu'; the cluster has gpu, cpu, all, empty; set",
        ),
        ({"slurm_partition": "empty"}, "partition empty has no nodes"),
        (
            {"gpu": 1},
            "asks for 1 GPU on one node; those of partition cpu have 0 at most; name another",
        ),
        ({"slurm_partition": "gpu", "gpu": 5}, "partition gpu have 4 at most; lower `processes` of the training"),
        ({"slurm_partition": "all", "gpu": 2, "gpu_model": "h200"}, "asks for 2 GPUs of type h200 on one node"),
        (
            {"slurm_partition": "all", "gpu": 1, "gpu_model": "h200", "mem_mb": 128001},
            "asks for 128001 MiB of memory on one node; those of partition all with 1 GPU of type h200 have 128000 at"
            " most; --set-resources train:mem_mb=128000, or another slurm_partition",
        ),
        (
            {"slurm_partition": "all", "gpu": 4, "_cores": 32},
            "with 4 GPUs have 30 at most; --set-resources train:",
        ),
        ({"mem_mb": 32001}, "of partition cpu have 32000 at most"),
        ({"_cores": 49}, "asks for 49 CPUs on one node; those of partition cpu have 48 at most"),
        (
            {"runtime": 151, "attempt": 3},
            "partition cpu gives 150 at most; --set-resources train:runtime=150, fewer",
        ),
    ],
)
def test_what_no_node_has_is_refused(given: dict[str, Any], expected: str) -> None:
    found = asked(**given)
    assert found is not None and expected in found and "\n" not in found


def test_without_a_default_partition_a_job_must_name_one_unless_the_plug_in_chooses() -> None:
    nodes, partitions = [Node("n", 4, 900, {}, frozenset({"p"}))], [Partition("p", minutes=60)]
    found = obstacle(Request("j", "r"), nodes, partitions)
    assert found is not None and found.startswith("names no partition, and the cluster has no default one, only p")
    assert obstacle(Request("j", "r"), nodes, partitions, anywhere=True) is None


def made_up(executor: str, *memory: int, retries: int = 2, **more: str) -> SimpleNamespace:
    """A Snakemake run of local jobs and of jobs that ask for more memory with each attempt."""

    def rule(amount: int) -> SimpleNamespace:
        def expanded(wildcards: object, given: object, attempt: int, **_: object) -> dict[str, Any]:
            return {"mem_mb": amount * attempt, "_cores": 1, **more}

        return SimpleNamespace(name="measure", restart_times=retries, expand_resources=expanded)

    def job(amount: int, local: bool) -> SimpleNamespace:
        return SimpleNamespace(
            rule=rule(amount), is_local=local, wildcards=["digits", str(amount)], wildcards_dict={}, input=[]
        )

    jobs = [job(10**9, True), *(job(amount, False) for amount in memory)]
    return SimpleNamespace(
        executor_plugin=SimpleNamespace(name=executor),
        executor_settings=SimpleNamespace(partition_config=None),
        dag=SimpleNamespace(needrun_jobs=lambda: iter(jobs)),
    )


def scontrol(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "scontrol").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_the_last_attempt_is_checked_too_and_local_jobs_and_other_executors_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "node").write_text(NODES.replace("DOWN*", "IDLE"))
    (tmp_path / "partition").write_text(PARTITIONS)
    scontrol(tmp_path, monkeypatch, f'cat {tmp_path}/"$3"')
    preflight.check(made_up("slurm", 10000))
    with pytest.raises(
        UserError, match=r"^measure digits/11000 \(attempt 3\): asks for 33000 MiB of memory on one node"
    ):
        preflight.check(made_up("slurm", 10000, 11000))
    with pytest.raises(UserError, match=r"^measure digits/40000: asks for 40000 MiB"):
        preflight.check(made_up("slurm", 40000))
    preflight.check(made_up("slurm", 11000, retries=0))
    preflight.check(made_up("kubernetes", 10**9))
    preflight.check(made_up("slurm", 10**9, clusters="another"))
    assert capsys.readouterr().err == ""
    (tmp_path / "node").write_text(NODES)
    preflight.check(made_up("slurm", 9000, 10000))
    assert capsys.readouterr().err == "measure digits/10000 waits until a node is back: c1\n"


def test_a_cluster_that_does_not_answer_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scontrol(tmp_path, monkeypatch, "exit 1")
    preflight.check(made_up("slurm", 10**9))
    assert "Could not ask the cluster what it has" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    preflight.check(made_up("slurm", 10**9))
    assert "Could not ask the cluster what it has" in capsys.readouterr().err


def test_the_profile_leaves_out_what_loses_or_doubles_work() -> None:
    profile = yaml.safe_load((ROOT / "workflow/profiles/slurm/config.yaml").read_text())
    assert not {"rerun-incomplete", "keep-incomplete", "slurm-array-jobs"} & set(profile)
    assert (profile["executor"], profile["slurm-status-command"], profile["scheduler"]) == ("slurm", "squeue", "greedy")


def test_the_documentation_says_what_the_rules_ask_for() -> None:
    rows = re.findall(
        r"^\| (\w+) \|.*\| (\d+)[^|]* \| (\d+) \| (\d+) \|$", (ROOT / "docs/cluster.md").read_text(), re.M
    )
    documented = {rule: tuple(map(int, numbers)) for rule, *numbers in rows}
    asked = {}
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for text in re.split("^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            if "localrule: True" not in text:
                fields = (
                    r"mem_mb=lambda wildcards, attempt: (\d+)",
                    r"runtime=lambda wildcards, attempt: (\d+)",
                    r"threads: (\d+)",
                )
                found = [re.search(field, text) for field in fields]
                asked[text.partition(":")[0]] = tuple(int(match.group(1)) for match in found if match)
    assert documented == asked and set(asked) == {"prepare", "train", "corrupt", "attack", "measure"}


# ---- the whole way ------------------------------------------------------------

KILLED = "digits/resnet--standard--0"
STUCK = '"corruption":"c.contrast"'
FORKED = "MiB at most"  # what a job's log says if a waiting process forked it
OWNER = "from pipeline import server; print(server.start(), flush=True); input()"


class Submitted(Checkout):
    """A copy of the repository whose jobs go to Slurm as the profile says, on another cluster's time scale."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        super().__init__(folder)
        default = yaml.safe_load((ROOT / "config.yaml").read_text())
        self.config = {**default, "selftest": True, "checkpoint_minutes": 0}
        self.write(self.config)
        self.cluster = cluster
        self.records = folder / "records"
        self.records.mkdir()

    def command(self, *arguments: str, asked: str = "measure:nodes=1") -> list[str]:
        command = [sys.executable, "-m", "snakemake", "--workflow-profile", "workflow/profiles/slurm"]
        quick = ["--slurm-init-seconds-before-status-checks", "1", "--slurm-keep-successful-logs"]
        limits = ["--set-resources", "corrupt:runtime=attempt", "prepare:runtime=5 * attempt"]
        small = [f"{rule}:mem_mb=2000 * attempt" for rule in ("prepare", "train", "corrupt", "attack", "measure")]
        return [*command, *quick, *arguments, *limits, *small, asked]

    def environment(self, **given: str) -> dict[str, str]:
        dropped = ("BOUNDARY_ATLAS_RUN", client.SOCKET, "SLURM_JOB_ID")
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        path = os.pathsep.join(filter(None, [str(ROOT / "tests/slurm/recorder"), os.environ.get("PYTHONPATH")]))
        own = {"PYTHONPATH": path, "ATLAS_TEST_RECORDS": str(self.records), "ATLAS_TEST_STUCK": STUCK}
        return {**kept, **self.cluster.environment, **own, **given}

    def start(self, *arguments: str, **given: str) -> subprocess.Popen[str]:
        log = (self.folder / "head.log").open("w")
        with log:
            return subprocess.Popen(
                self.command(*arguments),
                cwd=self.folder,
                env=self.environment(**given),
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def run(self, *arguments: str, **asked: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments, **asked),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def recorded(self) -> dict[str, dict[str, Any]]:
        """Of each Slurm job whose stage began, what it saw."""
        entries = [json.loads(path.read_text()) for path in self.records.glob("*.json")]
        return {entry["job"]: entry for entry in entries}

    def log(self, name: str) -> str:
        path = self.folder / "results/logs" / f"{name}.log"
        return path.read_text() if path.is_file() else ""


@dataclass
class Done:
    """A finished run."""

    checkout: Submitted
    head: str
    killed: str


def until(holds: Callable[[], Any], head: subprocess.Popen[str]) -> Any:
    for _ in range(36_000):  # half an hour: on a busy machine the training waits for its turn
        if found := holds():
            return found
        assert head.poll() is None, "Snakemake ended too early"
        time.sleep(0.05)
    raise AssertionError("it never came true")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """A run in which one training is cancelled half-way and one corruption does not end within its time."""
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("no snakemake-executor-plugin-slurm; it comes with the extra `slurm`")
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with running(tmp_path_factory.mktemp("slurm")) as cluster:
        checkout = Submitted(tmp_path_factory.mktemp("run"), cluster)
        # Jobs inherit the address of a process that would fork them, as if the head had started one.
        environment = {**checkout.environment(), **dict.fromkeys(server.ONE_THREAD, "1")}
        with subprocess.Popen(
            [sys.executable, "-c", OWNER],
            cwd=checkout.folder,
            env={**environment, "PYTHONPATH": f"{checkout.folder}{os.pathsep}{environment['PYTHONPATH']}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as forking:
            assert forking.stdout is not None
            address = forking.stdout.readline().strip()
            head = checkout.start(**{client.SOCKET: address})
            try:
                until(lambda: "epoch 3/" in checkout.log(f"train/{KILLED}"), head)
                (killed,) = (job for job, seen in checkout.recorded().items() if KILLED in seen["out"])
                cluster.ask("scancel", killed)
                head.wait(timeout=3600)
                yield Done(checkout, (checkout.folder / "head.log").read_text(), killed)
            finally:
                if head.poll() is None:
                    os.killpg(head.pid, signal.SIGKILL)
                    head.wait()
                forking.kill()


@pytest.mark.slow
def test_every_output_is_there_although_one_job_was_cancelled_and_one_ran_out_of_time(done: Done) -> None:
    checkout = done.checkout
    plan = Plan(checkout.config)
    wanted = [path for stage in ("prepare", "train", "corrupt", "attack", "collect") for path in plan.targets(stage)]
    wanted += [plan.path("measure", **table) for kind in plan.kinds for table in plan.tables(kind)]
    wanted += ["results/report/index.html", "results/leaderboard.md"]
    absent = [path for path in wanted if not (checkout.folder / path).is_file()]
    assert not absent, f"{absent}\n{done.head}"
    jobs = checkout.cluster.jobs()
    remote = sum(len(plan.targets(stage)) for stage in ("prepare", "train", "corrupt", "attack"))
    remote += sum(len(plan.tables(kind)) for kind in plan.kinds)
    states = Counter(job["JobState"] for job in jobs.values())
    assert (states.pop("COMPLETED"), states.pop("CANCELLED")) == (remote, 1), done.head
    assert set(states) == {"TIMEOUT"}, done.head
    assert jobs[done.killed]["JobState"] == "CANCELLED"


@pytest.mark.slow
def test_the_cancelled_training_went_on_from_its_checkpoint(done: Done) -> None:
    log = done.checkout.log(f"train/{KILLED}")
    assert "going on in epoch" in log and "epoch 20/20" in log, log


@pytest.mark.slow
def test_a_retry_asks_for_more_time_and_memory(done: Done) -> None:
    jobs, recorded = done.checkout.cluster.jobs(), done.checkout.recorded()
    for out, first, second in (
        ("contrast", ("00:01:00", "2000M"), ("00:02:00", "4000M")),
        (KILLED, ("12:00:00", "2000M"), ("1-00:00:00", "4000M")),
    ):
        tries = sorted((int(job) for job, seen in recorded.items() if out in seen["out"]))[:2]
        asked = [(jobs[str(job)]["TimeLimit"], jobs[str(job)]["MinMemoryNode"]) for job in tries]
        assert asked == [first, second]


@pytest.mark.slow
def test_each_gpu_job_has_one_device_for_itself(done: Done) -> None:
    recorded = done.checkout.recorded()
    jobs = done.checkout.cluster.jobs()
    assert {job for job, fields in jobs.items() if fields["JobState"] == "COMPLETED"} <= set(recorded) <= set(jobs)
    for job, seen in recorded.items():
        gpus = 0 if seen["stage"] == "prepare" else 1
        assert len(seen["devices"]) == gpus and seen["exclusive"], seen
        assert jobs[job].get("TresPerJob", "") == ("gres:gpu:1" if gpus else "")
    assert {device for seen in recorded.values() for device in seen["devices"]} == {"0", "1"}


@pytest.mark.slow
def test_no_job_is_forked_from_a_process_outside_of_its_allocation(done: Done) -> None:
    logs = done.checkout.folder / "results/logs"
    assert FORKED in done.checkout.log("collect/accuracy"), "the head's own jobs show that there was one to ask"
    forked = [path for path in logs.rglob("*.log") if path.parent.name != "collect" and FORKED in path.read_text()]
    assert not forked
    plan = Plan(done.checkout.config)
    assert len(list((logs / "measure").rglob("*.log"))) == sum(len(plan.tables(kind)) for kind in plan.kinds)


@pytest.mark.slow
def test_a_second_run_has_nothing_to_do(done: Done) -> None:
    before = set(done.checkout.cluster.jobs())
    result = done.checkout.run()
    assert result.returncode == 0 and "Nothing to be done" in result.stdout + result.stderr
    assert set(done.checkout.cluster.jobs()) == before


@pytest.mark.slow
def test_a_job_that_would_wait_for_ever_is_not_submitted_and_leaves_no_lock(done: Done) -> None:
    before = set(done.checkout.cluster.jobs())
    for asked, expected in (
        ("measure:gpu=4", "asks for 4 GPUs on one node; those of partition main have 2 at most"),
        ("measure:mem_mb=30000 * attempt", "(attempt 3): asks for 90000 MiB of memory on one node"),
        ("measure:runtime=4321", "asks for 4321 minutes; partition main gives 4320 at most"),
        ("measure:slurm_partition=fast", "asks for partition 'fast'; the cluster has main"),
    ):
        result = done.checkout.run("--forcerun", "measure", asked=asked)
        output = result.stdout + result.stderr
        assert result.returncode != 0 and expected in output, output
        assert "LockException" not in output
    assert set(done.checkout.cluster.jobs()) == before
