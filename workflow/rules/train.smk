# torch's launcher, for a training whose batches several processes share
LAUNCHER = "-m torch.distributed.run --standalone --nproc-per-node"


rule train:
    input:
        PLAN.weights,
        data=PLAN.input("train", "prepare"),
    output:
        classifier=PLAN.pattern_path("train"),
        history=PLAN.pattern_path("train").replace(".safetensors", ".history.parquet"),
    log:
        f"{RESULTS}/logs/train/{{dataset}}/{{classifier}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{dataset}}/{{classifier}}.tsv"
    priority: 1  # the longest jobs first, so that none is left alone at the end
    threads: 1
    resources:
        gpu=lambda wildcards: GPUS * PLAN.processes(wildcards),
        mem_mb=lambda wildcards, attempt: 8000 * PLAN.processes(wildcards) * attempt,
        runtime=lambda wildcards, attempt: 720 * attempt,
    params:
        spec=lambda wildcards: PLAN.spec("train", wildcards),
        code=lambda wildcards: PLAN.code("train", wildcards),
        origin=lambda wildcards: PLAN.origin("train", wildcards),
        launcher=lambda wildcards: (
            f"{LAUNCHER} {PLAN.processes(wildcards)}"
            if PLAN.processes(wildcards) > 1
            else ""
        ),
    message:
        "train {wildcards.classifier} on {wildcards.dataset}"
    shell:
        "{PYTHON:q} {params.launcher} -m pipeline train --spec {params.spec:q} --code {params.code} --data {input.data:q}"
        " --device {DEVICE} --workers {threads} --checkpoint-minutes {CHECKPOINT_MINUTES} --history {output.history:q} --out {output.classifier:q} > {log:q} 2>&1"
