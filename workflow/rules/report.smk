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
    # The tables come by standard input: a command line holds no more than some thousand.
    shell:
        "paste -d ' ' <(printf '%s\\n' {params.lineages}) <(printf '%s\\n' {input:q})"
        " | {PYTHON:q} -m pipeline collect --spec {params.spec:q} --code {params.code} --tables - --out {output:q} > {log:q} 2>&1"


rule report:
    input:
        tables=PLAN.targets("collect") + PLAN.selftest_table(),
        # for the names of the classes
        data=PLAN.input("report", "prepare"),
    output:
        # What is marked by report() appears in `snakemake --report`.
        page=report(
            f"{RESULTS}/report/index.html",
            category="Report",
            labels={"page": "the whole report"},
            caption="../report/site.rst",
        ),
        classifiers=report(
            directory(f"{RESULTS}/report/classifiers"),
            patterns=["{of}/{name}.html"],
            category="Classifiers",
            labels={"classifier": "{name}", "data set": "{of}"},
            caption="../report/card.rst",
        ),
        samples=report(
            directory(f"{RESULTS}/report/samples"),
            patterns=["{of}.html"],
            category="Single images",
            labels={"data set": "{of}"},
            caption="../report/samples.rst",
        ),
        figures=report(
            directory(f"{RESULTS}/figures"),
            patterns=["{figure}.png"],
            category="Figures",
            subcategory=captions.section(PLAN.results / "figures"),
            labels=captions.labels(PLAN.results / "figures"),
            caption="../report/figure.rst",
        ),
        leaderboards=report(
            directory(f"{RESULTS}/leaderboards"),
            patterns=["{of}/{board}.html"],
            category="Leaderboards",
            labels={"leaderboard": "{board}", "data set": "{of}"},
            caption="../report/leaderboard.rst",
        ),
        leaderboard=multiext(
            f"{RESULTS}/leaderboard", ".parquet", ".csv", ".md", ".tex"
        ),
        board=report(
            f"{RESULTS}/leaderboard.html",
            category="Leaderboards",
            labels={"leaderboard": "overall", "data set": "all"},
            caption="../report/leaderboard.rst",
        ),
        numbers=report(
            f"{RESULTS}/numbers.csv",
            category="Tables",
            labels={"table": "every number and the rows behind it"},
            caption="../report/numbers.rst",
        ),
        claims=report(
            f"{RESULTS}/claims.csv",
            category="Tables",
            labels={"table": "claims of the papers"},
            caption="../report/claims.rst",
        ),
        others=multiext(
            f"{RESULTS}/", "numbers.parquet", "claims.md", "profile.parquet"
        ),
        provenance=report(
            f"{RESULTS}/provenance.txt",
            category="Provenance",
            labels={"file": "what made every file"},
            caption="../report/provenance.rst",
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
        results=RESULTS,
        # No input, as seconds are no result: new ones alone are no reason to make the page again.
        benchmarks=f"{RESULTS}/benchmarks",
    message:
        "report: figures, leaderboards, claims and pages"
    shell:
        "{PYTHON:q} -m pipeline report --tables {input.tables:q} --data {input.data:q}"
        " --out {params.results:q} --spec {params.spec:q}"
        " --title {params.title:q} --seed {params.seed} --benchmarks {params.benchmarks:q} --code {params.code} > {log:q} 2>&1"
        " && {PYTHON:q} -m pipeline provenance {output.leaderboard[0]:q} --all > {output.provenance:q} 2>> {log:q}"
