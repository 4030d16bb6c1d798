rule selftest:
    output:
        table=f"{RESULTS}/selftest/selftest.parquet",
        text=f"{RESULTS}/selftest/selftest.md",
    log:
        f"{RESULTS}/logs/selftest.log",
    benchmark:
        f"{RESULTS}/benchmarks/selftest.tsv"
    localrule: True
    threads: 1
    resources:
        gpu=0,
        mem_mb=4000,
        runtime=30,
    params:
        code=PLAN.selftest_code(),
        folder=lambda wildcards, output: str(Path(output.table).parent),
    message:
        "selftest: do the flags work?"
    # Exit code 1 says that a flag is wrong: the report shows which. A job that fails leaves no table.
    shell:
        "{PYTHON:q} -m pipeline selftest --out {params.folder:q} --code {params.code} > {log:q} 2>&1 || [ $? -eq 1 ]"
