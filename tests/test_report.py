"""From tables to files: what appears, what is in it, and that equal tables give equal bytes."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import store
from pipeline.commandline import main
from pipeline.contracts import UserError
from pipeline.report import comparisons, leaderboard, outcomes
from pipeline.stages.report import report

HOSTILE = "<script>alert(1)</script>"
SAMPLES = 40


def keys(dataset, architecture, training, seed=0):
    return {
        "dataset": dataset,
        "classifier": f"{architecture}--{training}--{seed}",
        "architecture": architecture,
        "training": training,
        "seed": seed,
        "measurement": "m",
    }


def accuracy(key, correct, view="clean", severity=None):
    kind = "clean" if view == "clean" else "corruption"
    rows = []
    for i, right in enumerate(correct):
        own = {"view": view, "kind": kind, "severity": severity, "label": 1, "prediction": int(right)}
        rows.append({**key, "sample": f"s{i}", **own, "correct": bool(right), "confidence": 0.9})
    return rows


def perturbation(key, attack, norm, epsilon, norms):
    rows = []
    for i, size in enumerate(norms):
        found = math.isfinite(size)
        own = {"attack": attack, "norm": norm, "epsilon": epsilon, "converged": found}
        own |= {"label": 1, "clean_prediction": int(size > 0), "forward_passes": 3.5, "backward_passes": 2.0}
        own |= {"zero_gradient": False, "random_forward": False, "softmax_output": False}
        own |= {"large_epsilon_success": None if epsilon is None else 1.0}
        own |= dict.fromkeys(("l0_pixels", "l0_entries", "l1", "l2", "linf"), size if found else None)
        rows.append({**key, "sample": f"s{i}", **own})
    return rows


def margins(key, margin, correct):
    rows = []
    for block, scale in enumerate((1.0, 2.0, 4.0)):
        for i, size in enumerate(margin):
            found = math.isfinite(size)
            own = {"block": block, "frequency": 2 * block, "correct": bool(correct[i]), "converged": found}
            rows.append({**key, "sample": f"s{i}", **own, "margin": scale * size if found else None})
    return rows


def gallery(key, channels):
    rows = []
    for i in range(4):
        clean = np.full((channels, 4, 4), 0.5, dtype="<f4")
        own = {"attack": "pgd", "label": 1, "clean_prediction": 1, "prediction": 0}
        own |= {"channels": channels, "height": 4, "width": 4}
        images = {"clean": clean.tobytes(), "perturbed": (clean + np.float32(0.1)).tobytes()}
        rows.append({**key, "sample": f"s{i}", **own, **images})
    return rows


def transfer(key, source, attack, right, fooled):
    rows = []
    for i, (good, wrong) in enumerate(zip(right, fooled, strict=True)):
        own = {"attack": attack, "source": source, "norm": "l2", "epsilon": 0.5, "label": 1}
        own |= {"clean_prediction": int(good), "prediction": int(not wrong), "attacked": bool(good)}
        rows.append({**key, "sample": f"s{i}", **own, "fooled": bool(good and wrong)})
    return rows


def make_frames(datasets=("digits",), training=HOSTILE):
    frames = {"accuracy": [], "perturbation": [], "dct_margin": [], "gallery": [], "transfer": []}
    for number, dataset in enumerate(datasets):
        generator = np.random.default_rng(number)
        for architecture in ("a", "b"):
            for name, strength in (("standard", 0.3), (training, 0.8)):
                key = keys(dataset, architecture, name)
                correct = generator.random(SAMPLES) < 0.9
                frames["accuracy"] += accuracy(key, correct)
                for severity in (1, 3):
                    frames["accuracy"] += accuracy(key, generator.random(SAMPLES) < 0.8, "fog", severity)
                norms = np.where(correct, strength * generator.exponential(size=SAMPLES), 0.0)
                norms[:2] = math.inf
                frames["perturbation"] += perturbation(key, "deepfool", "l2", None, norms)
                for attack, norm in (("pgd", "l2"), ("pgd_max", "linf")):
                    found = np.where(norms <= 0.5, norms, math.inf)
                    frames["perturbation"] += perturbation(key, attack, norm, 0.5, found)
                frames["dct_margin"] += margins(key, norms, correct)
                frames["gallery"] += gallery(key, 1 + 2 * number)
                for source in (f"{a}--{t}--0" for a in ("a", "b") for t in ("standard", training)):
                    fooled = generator.random(SAMPLES) < 0.5
                    frames["transfer"] += transfer(key, source, "pgd", correct, fooled)
    return {kind: pd.DataFrame(rows) for kind, rows in frames.items()}


def write(folder, frames):
    paths = {}
    folder.mkdir(exist_ok=True)
    meta = {"pipeline": json.dumps({"measured_with": {"torch": ["9.8.7"]}, "measured_on": ["Abacus"]})}
    for kind, frame in frames.items():
        paths[kind] = folder / f"{kind}.parquet"
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(meta), paths[kind])
    return paths


def run(out, tables, **own):
    report(tables=tables, out=out, title="A <title>", **own)
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


class Page(HTMLParser):
    """Tags with their attributes; the parser itself checks that the markup nests."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    frames = make_frames(("digits", "colours"))
    for kind in ("perturbation", "dct_margin", "transfer"):  # of one data set only
        frames[kind] = frames[kind][frames[kind]["dataset"] == "digits"]
    tables = write(folder / "tables", frames)
    return tables, run(folder / "out", tables)


def test_files(finished):
    _, files = finished
    expected = {"report/index.html", "claims.csv", "claims.md", "profile.parquet", "numbers.csv", "numbers.parquet"}
    boards = {"overall", "adversarial", "corruption", "geometry"}
    names = ["leaderboard", *(f"leaderboards/digits/{name}" for name in boards)]
    names += [f"leaderboards/colours/{name}" for name in boards - {"adversarial", "geometry"}]
    expected |= {f"{name}.{suffix}" for name in names for suffix in ("parquet", "csv", "md", "tex", "html")}
    assert {name for name in files if "leaderboard" in name} == {name for name in expected if "leaderboard" in name}
    own = ("robustness", "margins", "envelope", "transfer", "profile_correlations", "profile_robustness")
    names = {"digits": own, "colours": ()}
    for dataset, own in names.items():
        under_corruption = (f"corruption_{name}" for name in ("errors", "map", "calibration", "differences"))
        for figure in ("overview", "corruptions", "gallery", *under_corruption, *own):
            expected |= {f"figures/{dataset}_{figure}.{suffix}" for suffix in ("png", "svg", "pdf", "csv")}
    assert expected <= set(files)
    figures = {name.rpartition(".")[0] for name in files if name.startswith("figures/")} - {"figures/index"}
    assert not {f"{name}.{suffix}" for name in figures for suffix in ("png", "svg", "pdf", "csv")} - set(files)
    assert all(content[:4] == b"\x89PNG" for name, content in files.items() if name.endswith(".png"))


def test_equal_tables_give_equal_bytes(finished, tmp_path):
    tables, files = finished
    assert run(tmp_path, tables) == files


def test_page_stands_alone_and_is_accessible(finished):
    _, files = finished
    for name in ("report/index.html", "leaderboard.html"):
        page = Page(files[name].decode())
        assert page.open == []
        for tag, attributes in page.tags:
            assert attributes.get("src", "data:").startswith("data:")
            assert re.match(r"#|data:|[\w.-]+(/|#|$)", attributes.get("href", "#")), "below the folder of the results"
            assert tag != "link"
            assert "src" not in attributes or len(attributes["alt"]) > 40, "one without is where a figure is enlarged"
        text = re.sub(r"<script.*?</script>", "", files[name].decode(), flags=re.DOTALL)
        assert not re.search(r"https?://|@import|url\(", text)
        heads = [attributes for tag, attributes in page.tags if tag == "th"]
        assert heads and all(attributes["scope"] in ("row", "col") for attributes in heads)


def test_ids_are_escaped(finished):
    _, files = finished
    for name in ("report/index.html", "leaderboard.html"):
        text = files[name].decode()
        assert HOSTILE not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
        assert "<title>A &lt;title&gt;</title>" in text
        assert "alert(1)" not in "".join(re.findall(r"<script.*?</script>", text, flags=re.DOTALL))
    assert HOSTILE not in files["leaderboard.md"].decode()


def test_provenance_is_shown(finished):
    _, files = finished
    assert "Measurements made with torch 9.8.7." in files["report/index.html"].decode()
    assert "Measured on: Abacus." in files["report/index.html"].decode()
    schema = pq.read_schema(pa.BufferReader(files["leaderboard.parquet"]))
    assert set(json.loads(schema.metadata[b"pipeline"])) == {"tables", "seed", "spec"}
    assert all(schema.field(name).metadata[b"meaning"] for name in schema.names)


def test_leaderboard_numbers(finished):
    tables, files = finished
    board = pq.read_table(pa.BufferReader(files["leaderboard.parquet"])).to_pandas()
    assert list(board["dataset"]) == ["colours"] * 4 + ["digits"] * 4
    assert board[board["dataset"] == "colours"]["worst_case_robust_accuracy"].isna().all()
    assert len(files["leaderboard.csv"].decode().splitlines()) == 9
    table = pd.read_parquet(tables["perturbation"])
    for row in board[board["dataset"] == "digits"].to_dict("records"):
        mine = table[(table["dataset"] == row["dataset"]) & (table["classifier"] == row["classifier"])]
        survived = ~mine[mine["epsilon"].notna()].groupby("sample")["converged"].any()
        assert row["worst_case_robust_accuracy"] == survived.mean()
        norms = mine.assign(l2=mine["l2"].fillna(math.inf)).groupby("sample")["l2"].min()
        assert row["median_smallest_l2"] == np.median(norms)
        assert row["median_margin_highest_frequencies"] == 4 * row["median_margin_lowest_frequencies"]
        for name in ("clean_accuracy", "mean_corrupted_accuracy", "calibration_error", "median_smallest_l2"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    for dataset, rows in board.groupby("dataset"):
        criterion = "clean_accuracy" if dataset == "colours" else "worst_case_robust_accuracy"
        assert rows[criterion].is_monotonic_decreasing
        assert (rows["rank_best"] <= rows["rank_worst"]).all()


@pytest.mark.parametrize("kept", [(), ("accuracy",), ("perturbation",), ("dct_margin",), ("gallery",), ("transfer",)])
@pytest.mark.parametrize("empty", [False, True])
def test_missing_and_empty_tables(tmp_path, kept, empty):
    frames = make_frames(training="prime")
    frames = {kind: f if kind in kept else f.iloc[:0] for kind, f in frames.items() if empty or kind in kept}
    text = run(tmp_path / "out", write(tmp_path / "tables", frames))["report/index.html"].decode()
    note = re.search(r"Not measured in this run: (.*)</p>", text).group(1)
    for kind, words in outcomes.KINDS.items():
        assert (words in note) == (kind not in kept)
    assert ("No classifier was measured" in text) == (kept == ())


def test_single_sample_and_brought_classifier(tmp_path):
    key = {**keys("d", "timm-x", "brought"), "classifier": "mine", "seed": None}
    frames = {"accuracy": pd.DataFrame(accuracy(key, [True])).astype({"seed": "Int64", "severity": "Int64"})}
    frames["perturbation"] = pd.DataFrame(perturbation(key, "df", "l2", None, [math.inf])).astype({"seed": "Int64"})
    files = run(tmp_path / "out", write(tmp_path / "tables", frames))
    row = pq.read_table(pa.BufferReader(files["leaderboard.parquet"])).to_pylist()[0]
    assert row["seed"] is None
    assert row["median_smallest_l2"] == math.inf
    assert "∞ [–, –]" in files["leaderboard.md"].decode()


def test_unreadable_table(tmp_path):
    path = tmp_path / "accuracy.parquet"
    with pytest.raises(UserError, match="accuracy.parquet"):
        run(tmp_path / "out", {"accuracy": path})
    path.write_bytes(b"no table")
    with pytest.raises(UserError, match="accuracy.parquet"):
        run(tmp_path / "out", {"accuracy": path})


def test_nulls_get_their_meaning():
    key = keys("d", "a", "standard")
    table = pd.DataFrame(
        perturbation(key, "min", "l2", None, [0.0, 0.2, math.inf])
        + perturbation(key, "box", "l2", 0.1, [0.0, 0.1, 0.1])
    )
    (only,) = outcomes.gather({"perturbation": table})
    minimal, fixed = outcomes.Threat("min", "l2"), outcomes.Threat("box", "l2", 0.1)
    assert only.norms[minimal].tolist() == [0, 0.2, math.inf]
    assert only.robust(fixed).tolist() == [False, False, False]
    assert only.best("l2").tolist() == [0, 0.1, 0.1]
    assert only.best("l2", minimal_only=True).tolist() == [0, 0.2, math.inf]
    assert only.best("linf") is None
    assert only.beaten(minimal).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="norm 'l7'"):
        outcomes.gather({"perturbation": table.assign(norm="l7")})


def test_comparisons_are_paired_and_adjusted():
    n = 100
    standard, better = keys("d", "a", "standard"), keys("d", "a", "prime")
    rows = accuracy(standard, [1] * 60 + [0] * 40) + accuracy(better, [1] * 80 + [0] * 20)
    rows += accuracy(keys("d", "lonely", "prime"), [1] * n)
    norms = perturbation(standard, "df", "l2", None, [1.0] * n) + perturbation(better, "df", "l2", None, [1.0] * n)
    tables = {"accuracy": pd.DataFrame(rows), "perturbation": pd.DataFrame(norms)}
    clean, median = comparisons.compare(outcomes.gather(tables))
    assert (clean.classifier, clean.reference, clean.n) == ("a--prime--0", "a--standard--0", n)
    assert clean.gap.value == pytest.approx(0.2)
    assert clean.p == pytest.approx(2 * 0.5**20)
    assert clean.adjusted == pytest.approx(2 * clean.p)
    assert clean.verdict == "higher"
    assert (median.gap.value, median.p, median.verdict) == (0, 1, "no difference shown")


def test_no_torch():
    code = "import sys, pipeline.stages.report; print(sorted({'torch', 'timm', 'snakemake'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_doubts_about_an_attack_stand_on_leaderboard_and_page(tmp_path):
    frames = make_frames(training="robust")
    rows = frames["perturbation"]
    masked = (rows["training"] == "robust") & (rows["architecture"] == "a")
    rows.loc[masked, "zero_gradient"] = True
    rows.loc[masked & (rows["attack"] == "pgd"), "large_epsilon_success"] = 0.25
    board = leaderboard.build(outcomes.gather(frames)).table.set_index("classifier")["flags"]
    assert board["a--robust--0"] == (
        "gradient is zero on 100 % of images; pgd (ℓ₂ ≤ 0.5): with the whole box as budget it succeeds on 25 % alone"
    )
    assert board.drop("a--robust--0").isna().all()
    files = run(tmp_path / "out", write(tmp_path / "tables", frames))
    for name in ("leaderboard.md", "leaderboard.csv", "report/index.html"):
        assert "gradient is zero on 100 % of images" in files[name].decode()
    head = re.search(r"<thead>.*?</thead>", files["leaderboard.html"].decode(), flags=re.DOTALL).group()
    assert head.index("Flags") < head.index("Clean accuracy [%]"), "seen before the numbers"


def selftest_table(folder, verdicts):
    rows = [{"defence": HOSTILE, "broken": True, "flags": None, "verdict": verdict} for verdict in verdicts]
    rows[0]["flags"] = "random forward pass"
    path = folder / "selftest.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_selftest_stands_on_the_page(tmp_path):
    tables = write(tmp_path / "tables", {"accuracy": pd.DataFrame(accuracy(keys("d", "a", "standard"), [True]))})
    page = run(tmp_path / "none", tables)["report/index.html"].decode()
    assert "It was not run here." in page and "<code>selftest: true</code>" in page
    for verdicts, said in (
        (["right"] * 2, "All 2 verdicts are right."),
        (["right", "wrong"], "1 of 2 verdicts are wrong"),
    ):
        tables["selftest"] = selftest_table(tmp_path, verdicts)
        files = run(tmp_path / "out", tables)
        page = files["report/index.html"].decode()
        section = page.partition('id="selftest"')[2].partition("</main>")[0]
        assert said in section and section.count('<th scope="row"') == 2
        assert '<td data-sort="none">none</td>' in section and "nan" not in section
        assert "By hand: <code>python -m pipeline selftest</code>" in " ".join(section.split())
        assert "random forward pass</td>" in section and HOSTILE not in page
        assert "tables that this page does not show" not in page
        assert page.count(">selftest</th>") == 1, "among the tables with their digests"
    assert run(tmp_path / "again", tables) == files


def test_seconds_of_attacks_stand_on_the_page_alone(tmp_path):
    frames = {"perturbation": pd.DataFrame(perturbation(keys("d", "a", "standard"), "few", "l0", None, [3.0, 4.0]))}
    tables = write(tmp_path / "tables", frames)
    without = run(tmp_path / "without", tables)
    assert run(tmp_path / "missing", tables, benchmarks=tmp_path / "nowhere") == without
    path = tmp_path / "benchmarks/attack/d/a--standard--0/few.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("s\th:m:s\tmax_rss\n12.34\t0:00:12\t-\n")
    files = run(tmp_path / "with", tables, benchmarks=tmp_path / "benchmarks")
    page = files.pop("report/index.html").decode()
    assert ">12.3</td>" in page and "Seconds of the whole job" in page and "its start" in page
    assert "Seconds of the whole job" not in without.pop("report/index.html").decode()
    for name in ("figures/d_sparse.rst", "figures/index.csv"):  # captions, which say whether there are seconds
        assert b"12.3" not in files.pop(name) + without.pop(name)
    assert files == without


def test_a_data_set_without_accuracy_beside_one_with_it(tmp_path):
    frames = {"accuracy": pd.DataFrame(accuracy(keys("d", "a", "standard"), [True, False]))}
    frames["dct_margin"] = pd.DataFrame(margins(keys("e", "a", "standard"), [1.0, 2.0], [True, True]))
    files = run(tmp_path / "out", write(tmp_path / "tables", frames))
    assert "figures/d_overview.png" in files and "figures/e_overview.png" not in files
    assert "figures/e_margins.png" in files


def prepared(path, dataset, classes, stage="prepare"):
    """A file as prepare writes it; the report reads its metadata alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = store.provenance(stage, {"dataset": dataset, "split": "evaluation"}, "code", {}) | {"classes": classes}
    store.write_tensors(path, {"labels": np.zeros(1)}, meta)
    return path


def test_classes_are_called_as_the_data_name_them(tmp_path):
    """The gallery turns class 1 into class 0: on pages `dog → cat` where the data name them, else `1 → 0`."""
    key = keys("digits", "a", "standard"), keys("animals", "a", "standard")
    frames = {"accuracy": [], "gallery": []}
    for each in key:
        frames["accuracy"] += accuracy(each, [True, False])
        frames["gallery"] += gallery(each, 1)
    tables = write(tmp_path / "tables", {kind: pd.DataFrame(rows) for kind, rows in frames.items()})
    numbers = run(tmp_path / "numbers", tables)
    digits = prepared(tmp_path / "digits.safetensors", "digits", ["0", "1"])
    assert run(tmp_path / "digits", tables, data=[digits]) == numbers, "names that are numbers change nothing"
    animals = prepared(tmp_path / "animals.safetensors", "animals", ["cat", "dog"])
    names = run(tmp_path / "names", tables, data=[digits, animals, animals])
    changed = {name for name in names if names[name] != numbers[name]}
    pages = {"report/samples/animals.html", "report/classifiers/animals/a--standard--0.html"}
    figures = {f"figures/animals_gallery.{suffix}" for suffix in ("png", "svg", "pdf")}
    assert names.keys() == numbers.keys() and changed - {"report/index.html"} == pages | figures
    for page in pages:
        assert "dog → cat" in names[page].decode() and "1 → 0" not in names[page].decode()
        assert "1 → 0" in numbers[page].decode()
    out = ["--out", str(tmp_path / "main"), "--title", "A <title>"]
    given = ["--tables", *map(str, tables.values()), "--data", str(digits), str(animals), *out]
    assert main(["report", *given]) == 0
    assert {name: (tmp_path / "main" / name).read_bytes() for name in names} == names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": ["cat", "dog"], "stage": "train"}, "names no classes, expected a file of prepare; give "),
        ({"classes": None}, "names no classes"),
        ({"classes": ["cat", 1]}, "names no classes"),
        ({"classes": ["cat", "a\nb"]}, "names no classes"),
        ({"classes": ["cat", "dog"], "dataset": None}, "names no classes"),
        ({"classes": ["dog", "cat"]}, "names other classes of d than a file before it; give one of them"),
    ],
)
def test_files_that_name_no_classes_are_refused(tmp_path, given, message):
    first = prepared(tmp_path / "first.safetensors", "d", ["cat", "dog"])
    path = prepared(tmp_path / "a.safetensors", **{"dataset": "d"} | given)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: {message}"):
        report(tables={}, out=tmp_path / "out", data=[first, path])
    assert not (tmp_path / "out").exists()


def test_a_file_of_classes_that_is_missing_or_damaged_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        report(tables={}, out=tmp_path / "out", data=[tmp_path / "none.safetensors"])
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="truncated or damaged"):
        report(tables={}, out=tmp_path / "out", data=[tmp_path / "cut.safetensors"])
