rule prepare:
    input:
        lambda wildcards: datasets.with_folders(PLAN.source_files(wildcards)),
    output:
        PLAN.pattern_path("prepare"),
    log:
        f"{RESULTS}/logs/prepare/{{dataset}}/{{split}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/prepare/{{dataset}}/{{split}}.tsv"
    threads: 1
    resources:
        gpu=0,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        spec=lambda wildcards: PLAN.spec("prepare", wildcards),
        code=lambda wildcards: PLAN.code("prepare", wildcards),
        origin=lambda wildcards: PLAN.origin("prepare", wildcards),
    message:
        "prepare {wildcards.dataset}: {wildcards.split} split"
    shell:
        "{PYTHON:q} -m pipeline prepare --spec {params.spec:q} --code {params.code} --out {output:q} > {log:q} 2>&1"
