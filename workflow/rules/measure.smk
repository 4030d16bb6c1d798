rule measure:
    input:
        classifier=PLAN.input("measure", "train"),
        data=PLAN.input("measure", "prepare"),
        views=PLAN.input("measure", "corrupt", "attack"),
    output:
        PLAN.pattern_path("measure"),
    log:
        f"{RESULTS}/logs/measure/{{dataset}}/{{classifier}}/{{measurement}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure/{{dataset}}/{{classifier}}/{{measurement}}.tsv"
    threads: 1
    resources:
        gpu=GPUS,
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 480 * attempt,
    params:
        spec=lambda wildcards: PLAN.spec("measure", wildcards),
        code=lambda wildcards: PLAN.code("measure", wildcards),
        origin=lambda wildcards: PLAN.origin("measure", wildcards),
    message:
        "measure {wildcards.classifier} on {wildcards.dataset}: {wildcards.measurement}"
    shell:
        "{PYTHON:q} -m pipeline measure --spec {params.spec:q} --code {params.code} --classifier {input.classifier:q}"
        " --data {input.data:q} --views {input.views:q} --device {DEVICE} --out {output:q} > {log:q} 2>&1"
