rule train:
    input:
        PLAN.weights,
        data=PLAN.input("train", "prepare"),
    output:
        PLAN.pattern_path("train"),
    log:
        f"{RESULTS}/logs/train/{{dataset}}/{{classifier}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{dataset}}/{{classifier}}.tsv"
    priority: 1  # the longest jobs first, so that none is left alone at the end
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=8000,
        runtime=720,
    params:
        spec=lambda wildcards: PLAN.spec("train", wildcards),
        code=lambda wildcards: PLAN.code("train", wildcards),
        origin=lambda wildcards: PLAN.origin("train", wildcards),
    message:
        "train {wildcards.classifier} on {wildcards.dataset}"
    shell:
        "{PYTHON:q} -m pipeline train --spec {params.spec:q} --code {params.code} --data {input.data:q}"
        " --device {DEVICE} --out {output:q} > {log:q} 2>&1"
