# Its params leave the code out: an edit of it is no reason to fetch gigabytes again.
rule download:
    output:
        directory(PLAN.pattern_path("download")),
    log:
        f"{RESULTS}/logs/download/{{archive}}/{{part}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/download/{{archive}}/{{part}}.tsv"
    localrule: True
    threads: 1
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=720,
    params:
        spec=lambda wildcards: PLAN.spec("download", wildcards),
    message:
        "download {wildcards.archive}: {wildcards.part}"
    shell:
        "{PYTHON:q} -m pipeline download --spec {params.spec:q} --out {output:q} > {log:q} 2>&1"


rule corrupt:
    input:
        data=PLAN.input("corrupt", "prepare"),
        archive=lambda wildcards: ancient(PLAN.archive(wildcards)),
    output:
        PLAN.pattern_path("corrupt"),
    log:
        f"{RESULTS}/logs/corrupt/{{dataset}}/{{corruption}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/corrupt/{{dataset}}/{{corruption}}.tsv"
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        spec=lambda wildcards: PLAN.spec("corrupt", wildcards),
        code=lambda wildcards: PLAN.code("corrupt", wildcards),
        origin=lambda wildcards: PLAN.origin("corrupt", wildcards),
        downloaded=lambda wildcards, input: (
            ["--downloaded", *input.archive] if input.archive else []
        ),
    message:
        "corrupt {wildcards.dataset}: {wildcards.corruption}"
    shell:
        "{PYTHON:q} -m pipeline corrupt --spec {params.spec:q} --code {params.code} --data {input.data:q}"
        " {params.downloaded:q} --device {DEVICE} --out {output:q} > {log:q} 2>&1"


rule attack:
    input:
        classifier=PLAN.input("attack", "train"),
        data=PLAN.input("attack", "prepare"),
    output:
        PLAN.pattern_path("attack"),
    log:
        f"{RESULTS}/logs/attack/{{dataset}}/{{classifier}}/{{attack}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/attack/{{dataset}}/{{classifier}}/{{attack}}.tsv"
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 480 * attempt,
    params:
        spec=lambda wildcards: PLAN.spec("attack", wildcards),
        code=lambda wildcards: PLAN.code("attack", wildcards),
        origin=lambda wildcards: PLAN.origin("attack", wildcards),
    message:
        "attack {wildcards.classifier} on {wildcards.dataset}: {wildcards.attack}"
    shell:
        "{PYTHON:q} -m pipeline attack --spec {params.spec:q} --code {params.code} --classifier {input.classifier:q}"
        " --data {input.data:q} --device {DEVICE} --out {output:q} > {log:q} 2>&1"
