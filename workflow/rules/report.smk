rule collect:
    input:
        PLAN.input("collect", "measure"),
    output:
        PLAN.pattern_path("collect"),
    log:
        f"{RESULTS}/logs/collect/{{kind}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/collect/{{kind}}.tsv"
    localrule: True
    threads: 1
    resources:
        gpu=0,
        mem_mb=4000,
        runtime=30,
    params:
        spec=lambda wildcards: PLAN.spec("collect", wildcards),
        code=lambda wildcards: PLAN.code("collect", wildcards),
        origin=lambda wildcards: PLAN.origin("collect", wildcards),
        lineages=lambda wildcards: [
            PLAN.lineage(*needed) for needed in PLAN.inputs("collect", wildcards)
        ],
    message:
        "collect the tables of {wildcards.kind}"
    shell:
        "{PYTHON:q} -m pipeline collect --spec {params.spec:q} --code {params.code} --tables {input:q}"
        " --lineages {params.lineages} --out {output:q} > {log:q} 2>&1"


rule report:
    input:
        PLAN.targets("collect") + PLAN.selftest_table(),
    output:
        page=f"{RESULTS}/report/index.html",
        figures=directory(f"{RESULTS}/figures"),
        claims=multiext(f"{RESULTS}/claims", ".csv", ".md"),
        profile=f"{RESULTS}/profile.parquet",
        leaderboard=multiext(
            f"{RESULTS}/leaderboard", ".parquet", ".csv", ".md", ".html"
        ),
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    localrule: True
    threads: 1
    resources:
        gpu=0,
        mem_mb=4000,
        runtime=30,
    params:
        title=PLAN.config["title"],
        seed=PLAN.config["seed"],
        spec=PLAN.shown(),
        code=PLAN.code("report", {}),
        selftest=PLAN.selftest_code() if PLAN.selftest_table() else "",
        origin=PLAN.origin("report", {}),
        leaderboard=lambda wildcards, output: output.leaderboard[0].removesuffix(
            ".parquet"
        ),
        # No input, as seconds are no result: new ones alone are no reason to make the page again.
        benchmarks=f"{RESULTS}/benchmarks",
    message:
        "report: figures, leaderboard, claims and page"
    shell:
        "{PYTHON:q} -m pipeline report --tables {input:q} --figures {output.figures:q} --page {output.page:q}"
        " --leaderboard {params.leaderboard:q} --spec {params.spec:q} --title {params.title:q} --seed {params.seed} --benchmarks {params.benchmarks:q} --code {params.code} > {log:q} 2>&1"
