"""Before jobs go to Slurm: stop if the cluster could never run one of them, as it would wait in the queue for ever.

A request is compared with what nodes and partitions are configured for, not with what is free or up at the moment. What
this check does not know (limits of accounts and qualities of service, reservations) it lets pass.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.contracts import UserError

ELSEWHERE = ("cluster", "clusters", "slurm_cluster")  # resources that send a job to another cluster than this one
PATIENCE = 60.0  # seconds that scontrol has to answer


@dataclass(frozen=True)
class Node:
    """What a node is configured for: CPUs and MiB that jobs may have, GPUs by type ('' where none is named)."""

    name: str
    cpus: int
    memory: int
    gpus: Mapping[str, int]
    partitions: frozenset[str]
    there: bool = True

    def count(self, model: str) -> int:
        """Its GPUs of a model; all for ''."""
        return sum(self.gpus.values()) if not model else self.gpus.get(model, 0)


@dataclass(frozen=True)
class Partition:
    """Limits of a partition: minutes of a job, CPUs and MiB of a job on one node."""

    name: str
    default: bool = False
    minutes: float = math.inf
    cpus: float = math.inf
    memory: float = math.inf


@dataclass(frozen=True)
class Request:
    """What one attempt of a job asks of one node; `minutes` None is left to the partition, as are no `partitions`."""

    job: str
    rule: str
    attempt: int = 1
    gpus: int = 0
    model: str = ""
    cpus: int = 1
    memory: int = 0
    minutes: float | None = None
    partitions: tuple[str, ...] = ()


def check(workflow: Any) -> None:
    """Compare all jobs of a Snakemake run, at their first and their last attempt, with the cluster; `onstart` calls it.

    Does nothing for other executors. Where the cluster cannot be asked, a line says so.

    Args:
        workflow: Snakemake's, its jobs determined.

    Raises:
        UserError: a job asks for what no node of its partitions has, or more time than they give.
    """
    if workflow.executor_plugin.name != "slurm":
        return
    try:
        nodes, partitions = parse_nodes(_scontrol("node")), parse_partitions(_scontrol("partition"))
    except (OSError, subprocess.SubprocessError) as error:
        print(f"Could not ask the cluster what it has ({error}); jobs that ask for more wait for ever", file=sys.stderr)
        return
    anywhere = bool(workflow.executor_settings.partition_config)  # the plug-in then chooses a partition itself
    distinct = {replace(request, job=""): request for request in requests(workflow)}  # jobs of a rule mostly ask alike
    warned = set()
    for request in sorted(distinct.values(), key=lambda request: (request.job, request.attempt)):
        found = obstacle(request, nodes, partitions, anywhere=anywhere)
        if found is not None:
            attempt = f" (attempt {request.attempt})" if request.attempt > 1 else ""
            raise UserError(f"{request.job}{attempt}: {found}")
        if (absent := _absent(request, nodes, partitions, anywhere)) and absent not in warned:
            warned.add(absent)
            print(f"{request.job} waits until a node is back: {absent}", file=sys.stderr)


def requests(workflow: Any) -> Iterator[Request]:
    """What each of the jobs that go to Slurm asks for at its first attempt and, if it may be retried, at its last."""
    for job in workflow.dag.needrun_jobs():
        if job.is_local:
            continue
        for attempt in sorted({1, 1 + max(0, job.rule.restart_times)}):
            asked = job.rule.expand_resources(job.wildcards_dict, job.input, attempt, skip_evaluation={"tmpdir"})
            if not any(asked.get(name) for name in ELSEWHERE):
                yield request_of(f"{job.rule.name} {'/'.join(job.wildcards)}".strip(), job.rule.name, attempt, asked)


def request_of(job: str, rule: str, attempt: int, asked: Mapping[str, Any]) -> Request:
    """Read a job's resources as the Slurm plug-in does.

    Args:
        job: its name, for messages.
        rule: its rule.
        attempt: number of the attempt, from 1.
        asked: `gpu`, `gpu_model`, `gres`, `nodes`, `mem_mb`, `mem_mb_per_cpu`, `runtime` (minutes), `slurm_partition`,
            `cpus_per_task` and `_cores`, Snakemake's threads; others are ignored, and so is what is not known yet.
    """

    def number(name: str) -> int:
        value = asked.get(name)
        return int(value) if isinstance(value, (int, float)) else 0

    gpus, model = number("gpu"), str(asked.get("gpu_model") or "")
    for kind, count in gpus_of(str(asked.get("gres") or "")).items():
        gpus, model = max(gpus, count), model or kind
    cpus = max(1, number("cpus_per_task") or number("_cores"))
    named = str(asked.get("slurm_partition") or "")
    return Request(
        job=job,
        rule=rule,
        attempt=attempt,
        gpus=math.ceil(gpus / max(1, number("nodes"))),
        model=model if gpus else "",
        cpus=cpus,
        memory=number("mem_mb_per_cpu") * cpus or number("mem_mb"),
        minutes=number("runtime") or None,
        partitions=tuple(name for name in named.split(",") if name),
    )


def obstacle(
    request: Request, nodes: Sequence[Node], partitions: Sequence[Partition], *, anywhere: bool = False
) -> str | None:
    """Why a request could never be met, with the remedy; None if it can be.

    Args:
        request: of one attempt of a job.
        nodes: of the cluster.
        partitions: of the cluster.
        anywhere: whether one that names no partition may go to any, not to the default one alone.
    """
    known = [partition.name for partition in partitions]
    for name in request.partitions:
        if name not in known:
            return (
                f"asks for partition '{name}'; the cluster has {', '.join(known) or 'none'}; set slurm_partition in"
                f" the profile or --set-resources {request.rule}:slurm_partition=NAME"
            )
    open_to = _partitions(request, partitions, anywhere)
    if not open_to:
        return (
            f"names no partition, and the cluster has no default one, only {', '.join(known) or 'none'};"
            " set slurm_partition in the profile"
        )
    found = [_obstacle_in(partition, request, nodes) for partition in open_to]
    return None if None in found else found[0]


def parse_nodes(text: str) -> list[Node]:
    """Nodes from the output of `scontrol --oneliner show node`."""
    return [
        Node(
            name=fields["NodeName"],
            cpus=_number(fields.get("CPUEfctv") or fields.get("CPUTot")),
            memory=_number(fields.get("RealMemory")) - _number(fields.get("MemSpecLimit")),
            gpus=gpus_of(fields.get("Gres", "")),
            partitions=frozenset(fields.get("Partitions", "").split(",")),
            there=not re.search(r"DOWN|DRAIN|FAIL|NOT_RESPONDING|INVAL|\*", fields.get("State", "")),
        )
        for fields in _lines(text, "NodeName")
    ]


def parse_partitions(text: str) -> list[Partition]:
    """Partitions from the output of `scontrol --oneliner show partition`."""
    return [
        Partition(
            name=fields["PartitionName"],
            default=fields.get("Default") == "YES",
            minutes=minutes_of(fields.get("MaxTime", "")),
            cpus=_number(fields.get("MaxCPUsPerNode")) or math.inf,
            memory=_number(fields.get("MaxMemPerNode")) or math.inf,
        )
        for fields in _lines(text, "PartitionName")
    ]


def gpus_of(gres: str) -> dict[str, int]:
    """Number of GPUs by type in a node's or a job's list, such as `gpu:h200:4(S:0-1),shard:8`; '' names no type."""
    found: dict[str, int] = {}
    for item in re.sub(r"\([^)]*\)", "", gres).split(","):
        kind, *rest = item.split(":")
        if kind == "gpu":
            count = int(rest.pop()) if rest and rest[-1].isdigit() else 1
            model = rest[0] if rest else ""
            found[model] = found.get(model, 0) + count
    return found


def minutes_of(time: str) -> float:
    """Minutes of Slurm's `[days-]hours:minutes:seconds`; infinite for UNLIMITED and what else is no time."""
    parts = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", time)
    if not parts:
        return math.inf
    days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    return (days * 24 + hours) * 60 + minutes + seconds / 60


def _obstacle_in(partition: Partition, request: Request, nodes: Sequence[Node]) -> str | None:
    if request.minutes is not None and request.minutes > partition.minutes:
        return (
            f"asks for {request.minutes:g} minutes; partition {partition.name} gives {partition.minutes:g} at most;"
            f" {_remedy(request, 'runtime', int(partition.minutes))}"
        )
    fitting = [node for node in nodes if partition.name in node.partitions]
    if not fitting:
        return f"partition {partition.name} has no nodes; name another one as slurm_partition in the profile"
    gpus = f"{request.gpus} GPU{'s' if request.gpus > 1 else ''}" + (
        f" of type {request.model}" if request.model else ""
    )
    limits: list[tuple[str, str, int, float, Callable[[Node], int]]] = [
        ("gpu", gpus, request.gpus, math.inf, lambda node: node.count(request.model)),
        ("mem_mb", f"{request.memory} MiB of memory", request.memory, partition.memory, lambda node: node.memory),
        ("cpus_per_task", f"{request.cpus} CPUs", request.cpus, partition.cpus, lambda node: node.cpus),
    ]
    for resource, asked, amount, limit, has in limits:
        most = int(min(limit, max(map(has, fitting))))
        fitting = [node for node in fitting if min(limit, has(node)) >= amount]
        if not fitting:
            with_gpus = f" with {gpus}" if request.gpus and resource != "gpu" else ""
            return (
                f"asks for {asked} on one node; those of partition {partition.name}{with_gpus} have {most} at most;"
                f" {_remedy(request, resource, most)}"
            )
    return None


def _remedy(request: Request, resource: str, most: int) -> str:
    retried = ", fewer retries" if request.attempt > 1 and resource != "gpu" else ""
    if resource == "gpu" and request.gpus > 1:
        return "lower `processes` of the training in the config, or name another slurm_partition"
    if resource == "gpu":
        return "name another slurm_partition, or set `device: cpu` in the config"
    return f"--set-resources {request.rule}:{resource}={most}{retried}, or another slurm_partition"


def _partitions(request: Request, partitions: Sequence[Partition], anywhere: bool) -> list[Partition]:
    """Those that a request may go to."""
    if request.partitions:
        return [partition for partition in partitions if partition.name in request.partitions]
    return [partition for partition in partitions if anywhere or partition.default]


def _absent(request: Request, nodes: Sequence[Node], partitions: Sequence[Partition], anywhere: bool) -> str:
    """The nodes that a request needs, if none of them takes jobs at present."""
    open_to = _partitions(request, partitions, anywhere)
    able = [node for node in nodes if any(_obstacle_in(partition, request, [node]) is None for partition in open_to)]
    return "" if any(node.there for node in able) else ", ".join(node.name for node in able)


def _number(text: str | None) -> int:
    """A whole number; 0 for UNLIMITED and the like."""
    return int(text) if text and text.isdigit() else 0


def _lines(text: str, first: str) -> Iterator[dict[str, str]]:
    """Fields of each line that begins with the field `first`.

    Values may hold spaces (a system's name, a reason). Of fields named twice the first counts: free text stands last.
    """
    for line in text.splitlines():
        fields: dict[str, str] = {}
        for name, value in re.findall(r"(?:^|\s)([A-Z][\w/:]*)=(\S*)", line):
            fields.setdefault(name, value)
        if first in fields:
            yield fields


def _scontrol(what: str) -> str:
    command = ["scontrol", "--oneliner", "show", what]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
