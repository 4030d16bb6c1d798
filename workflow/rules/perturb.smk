rule corrupt:
    input:
        data=PLAN.input("corrupt", "prepare"),
    output:
        PLAN.pattern_path("corrupt"),
    log:
        f"{RESULTS}/logs/corrupt/{{dataset}}/{{corruption}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/corrupt/{{dataset}}/{{corruption}}.tsv"
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=8000,
        runtime=120,
    params:
        spec=lambda wildcards: PLAN.spec("corrupt", wildcards),
        code=lambda wildcards: PLAN.code("corrupt", wildcards),
        origin=lambda wildcards: PLAN.origin("corrupt", wildcards),
    message:
        "corrupt {wildcards.dataset}: {wildcards.corruption}"
    shell:
        "{PYTHON:q} -m pipeline corrupt --spec {params.spec:q} --code {params.code} --data {input.data:q}"
        " --device {DEVICE} --out {output:q} > {log:q} 2>&1"


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
        mem_mb=8000,
        runtime=480,
    params:
        spec=lambda wildcards: PLAN.spec("attack", wildcards),
        code=lambda wildcards: PLAN.code("attack", wildcards),
        origin=lambda wildcards: PLAN.origin("attack", wildcards),
    message:
        "attack {wildcards.classifier} on {wildcards.dataset}: {wildcards.attack}"
    shell:
        "{PYTHON:q} -m pipeline attack --spec {params.spec:q} --code {params.code} --classifier {input.classifier:q}"
        " --data {input.data:q} --device {DEVICE} --out {output:q} > {log:q} 2>&1"
