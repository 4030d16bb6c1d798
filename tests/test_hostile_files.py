"""Tables, weights and files of ours that are broken, odd or malicious: one line that names the file; nothing runs."""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from pipeline import specs, store
from pipeline.contracts import KEYS, Column, UserError
from pipeline.datasets.parquet import parquet
from pipeline.measurements import accuracy, dct_margin, slices
from pipeline.models.weights import load_weights, read_weights
from pipeline.report import templating
from pipeline.stages.collect import collect
from pipeline.stages.prepare import prepare
from pipeline.stages.report import report
from pipeline.stages.tables import read_table
from tests.test_report import make_frames

MARKUP = (
    "\"'><img src=x onerror=alert(1)></script><script>alert(2)</script>{{ 7*7 }}&lt;b&gt;$\\frac$ `a` |b| [c](d) \u202e"
)


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), value).save(buffer, "PNG")
    return buffer.getvalue()


def refused(call: Callable[[], Any]) -> str:
    """The line with which something is refused."""
    with pytest.raises(UserError) as error:
        call()
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


# Parquet files of images

IMAGES = pa.array([{"bytes": png(10 * row), "path": None} for row in range(4)])
LABELS = pa.array([0, 1, 1, 0])


def hub(path: Path, image: Any = IMAGES, label: Any = LABELS, metadata: Any = None) -> Path:
    """A file in the hub's layout."""
    table = pa.table({"image": image, "label": label})
    if metadata is not None:
        text = metadata if isinstance(metadata, str) else json.dumps({"info": {"features": {"label": metadata}}})
        table = table.replace_schema_metadata({"huggingface": text})
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize(
    "image",
    [
        IMAGES,
        pa.array([png(10 * row) for row in range(4)], pa.large_binary()),
        pa.array([{"bytes": png(10 * row)} for row in range(4)], pa.struct([("bytes", pa.large_binary())])),
        pa.chunked_array([IMAGES[:1], IMAGES[1:1], IMAGES[1:]]),
    ],
    ids=["struct", "large_binary", "struct of large_binary", "chunked"],
)
@pytest.mark.parametrize(
    "label",
    [
        LABELS,
        LABELS.cast(pa.uint64()),
        LABELS.cast(pa.int8()),
        LABELS.dictionary_encode(),
        pa.chunked_array([LABELS[:3], LABELS[3:]]),
    ],
    ids=["int64", "uint64", "int8", "dictionary", "chunked"],
)
def test_layouts_that_mean_the_same_are_read_alike(tmp_path: Path, image: Any, label: Any) -> None:
    samples = parquet(train=str(hub(tmp_path / "a.parquet", image, label)), channels=1)
    assert samples.labels.tolist() == [0, 1, 1, 0]
    assert samples.read(np.array([3, 1]))[:, 0, 0, 0].tolist() == [30, 10]
    assert samples.encoded is not None and samples.encoded(2)[1] == png(20)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (pa.array([0.0, 1.0, 1.0, 0.0]), "column 'label' is double, expected integers"),
        (pa.array(["a", "b", "b", "a"]), "column 'label' is string, expected integers"),
        (pa.array(["a", "b", "b", "a"]).dictionary_encode(), "expected integers"),
        (pa.array([True, False, True, False]), "column 'label' is bool, expected integers"),
        (pa.array([0, None, 1, 0]), "1 rows have no label"),
        (pa.array([0, -1, 1, 0]), "label -1 is negative, which marks images without one"),
        (pa.array([1, 2**63 + 1, 1, 0], pa.uint64()), "column 'label' holds labels over"),
        (pa.array([3, 3, 3, 3]), "classes ['3'], expected at least two"),
        (pa.array([[0], [1], [1], [0]]), "expected integers"),
        (pa.array([None] * 4), "column 'label' is null, expected integers"),
    ],
)
def test_labels_that_are_no_classes(tmp_path: Path, label: Any, message: str) -> None:
    path = hub(tmp_path / "a.parquet", label=label)
    assert refused(lambda: parquet(train=str(path))).startswith(f"{path}: {message}"[: len(str(path)) + 2])
    assert message in refused(lambda: parquet(train=str(path)))


@pytest.mark.parametrize(
    "image",
    [
        pa.array(["a.png"] * 4),
        pa.array([1, 2, 3, 4]),
        pa.array([{"path": "a.png"}] * 4),
        pa.array([{"bytes": "text"}] * 4),
        pa.array([{"bytes": {"bytes": b"x"}}] * 4),
        pa.array([[b"x"]] * 4),
        pa.array([png(0)] * 4).dictionary_encode(),
        pa.array([None] * 4),
    ],
)
def test_images_of_another_type(tmp_path: Path, image: Any) -> None:
    path = hub(tmp_path / "a.parquet", image)
    assert "expected struct(bytes, path) or binary" in refused(lambda: parquet(train=str(path)))


def test_missing_rows_columns_and_values_are_named(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    nulls = pa.array([{"bytes": png(0), "path": None}, None, {"bytes": None, "path": "x.png"}, {"bytes": b""}], kind)
    samples = parquet(train=str(hub(tmp_path / "a.parquet", nulls)), channels=1)
    for row, words in ((1, "row 1 has no image bytes"), (2, "row 2 has no image bytes"), (3, "it is empty")):
        assert words in refused(lambda row=row: samples.read(np.array([row])))
    empty = hub(tmp_path / "b.parquet", IMAGES[:0], LABELS[:0])
    assert "classes [], expected at least two" in refused(lambda: parquet(train=str(empty)))
    for names in (["image", "image", "label"], ["image", "label", "label"], ["image", "lab\nel"], []):
        columns = [LABELS if "l" in name else IMAGES for name in names]
        pq.write_table(pa.Table.from_arrays(columns, names), tmp_path / "c.parquet")
        expected = "no" if len(names) < 3 else "more than one"
        assert f"has {expected} column '" in refused(lambda: parquet(train=str(tmp_path / "c.parquet")))


def test_an_empty_test_split_is_named(tmp_path: Path) -> None:
    train, test = hub(tmp_path / "a.parquet"), hub(tmp_path / "b.parquet", IMAGES[:0], LABELS[:0])
    spec = {"source": "parquet", "options": {"train": str(train), "test": str(test)}, "split": "evaluation"}
    message = refused(lambda: prepare(spec=specs.complete("prepare", spec), code="", out=tmp_path / "out"))
    assert message == "the test split has no sample of 2 of 2 classes: 0, 1"


def test_pages_that_are_damaged_below_a_sound_footer(tmp_path: Path) -> None:
    path = hub(tmp_path / "a.parquet")
    content = bytearray(path.read_bytes())
    assert parquet(train=str(path)).labels.tolist() == [0, 1, 1, 0]
    footer = len(content) - 8 - struct.unpack("<I", content[-8:-4])[0]
    content[4:footer] = bytes(255 - byte for byte in content[4:footer])
    path.write_bytes(content)
    assert f"{path}: not a readable Parquet file (" in refused(lambda: parquet(train=str(path)).read(np.arange(4)))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("no json", "the class names in its metadata 'huggingface' are not readable"),
        ("[1]", "are not readable"),
        ("{}", "are not readable"),
        ({"names": "ab"}, "are not readable"),
        ({"names": {"0": "a"}}, "are not readable"),
        ({"names": ["a", None]}, "are not readable"),
        ({"names": ["a"]}, "label 1 is outside 0..0"),
        ({"names": ["a", "a"]}, "two classes share one name"),
        ({"names": ["a", "b\nc"]}, r"the name of a class, 'b\nc', holds a line break"),
    ],
)
def test_metadata_that_lie_about_the_classes(tmp_path: Path, metadata: Any, message: str) -> None:
    path = hub(tmp_path / "a.parquet", metadata=metadata)
    assert message in refused(lambda: parquet(train=str(path)))


def test_files_that_name_other_classes_do_not_go_together(tmp_path: Path) -> None:
    train = hub(tmp_path / "a.parquet", metadata={"names": ["cat", "dog"]})
    test = hub(tmp_path / "b.parquet", metadata={"names": ["dog", "cat"]})
    message = refused(lambda: parquet(train=str(train), test=str(test)))
    assert message == f"{test}: its metadata name other classes than those of {train}; make them agree"


def test_any_class_name_of_one_line_is_kept(tmp_path: Path) -> None:
    names = [MARKUP, "../../etc/passwd", "Ω\u0301\u0323" * 5000]
    path = hub(tmp_path / "a.parquet", label=pa.array([0, 1, 2, 0]), metadata={"names": names})
    spec = {
        "source": "parquet",
        "options": {
            "train": str(path),
            "test": str(hub(tmp_path / "b.parquet", label=pa.array([0, 1, 2, 0]), metadata={"names": names})),
            "channels": 1,
        },
        "split": "evaluation",
    }
    prepare(spec=specs.complete("prepare", spec), code="", out=tmp_path / "out.safetensors")
    assert store.read_metadata(tmp_path / "out.safetensors")["classes"] == names


def test_names_that_would_give_two_samples_one_id(tmp_path: Path) -> None:
    files = [str(hub(tmp_path / name)) for name in ("a.parquet", "a.pq")]
    assert "two of the files share one name" in refused(lambda: parquet(train=files))
    odd = str(hub(tmp_path / "a\nb.parquet"))
    assert r"the name of a file, 'a\nb', holds a line break" in refused(lambda: parquet(train=odd))


def test_a_folder_in_the_path_is_no_column(tmp_path: Path) -> None:
    (tmp_path / "label=7").mkdir()
    assert parquet(train=str(hub(tmp_path / "label=7" / "a.parquet"))).labels.tolist() == [0, 1, 1, 0]


# weights


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


class Payload:
    """A pickle that would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("form", ["pickle", "old torch", "torch", "whole network"])
def test_code_in_weights_does_not_run(tmp_path: Path, suffix: str, form: str) -> None:
    path, trace = tmp_path / f"w{suffix}", tmp_path / "ran"
    payload = {"weight": torch.zeros(1), "x": Payload(trace)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(payload, protocol=2))
    elif form == "whole network":
        torch.save(net(), path)
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form == "torch")
    message = refused(lambda: read_weights(path))
    assert message.startswith(f"{path}: not a")
    assert not trace.exists()
    if suffix != ".safetensors":
        assert "code in pickles is refused: save state_dict() alone" in message
        assert not re.search("weights_only|load failed|safe_globals", message), "advice that would run it"
        assert message.isprintable()
    if form in ("torch", "old torch") and suffix == ".pt":
        torch.load(path, weights_only=False)
        assert trace.exists(), "the payload is one"


@pytest.mark.parametrize("kept", [0, 1, 7, 30, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_weights(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(net().state_dict(), path)
    else:
        store.write_tensors(path, {name: value.numpy() for name, value in net().state_dict().items()}, {})
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    assert str(path) in refused(lambda: read_weights(path))
    if suffix == ".safetensors":
        assert "truncated or damaged" in refused(lambda: store.read_tensors(path))
        assert "truncated or damaged" in refused(lambda: store.read_metadata(path))


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": {**ENTRY, "shape": [3]}},
        {"a": {**ENTRY, "data_offsets": [0, 800]}},
        {"a": {**ENTRY, "data_offsets": [8, 0]}},
        {"a": {**ENTRY, "data_offsets": [-8, 0]}},
        {"a": {**ENTRY, "shape": [2**62, 2**62]}},
        {"a": {**ENTRY, "dtype": "F99"}},
        {"a": ENTRY, "b": ENTRY},
        {"a": {**ENTRY, "dtype": "F8_E8M0", "shape": [8]}},
        {"a": {"shape": [2]}},
        {"__metadata__": {"pipeline": 3}, "a": ENTRY},
        [1],
        b"\xff\xfe{",
        b"{" * 1000,
        2**60,
        2**24,
    ],
    ids=str,
)
def test_a_header_of_safetensors_that_lies(tmp_path: Path, header: Any) -> None:
    path = tmp_path / "w.safetensors"
    text = b"" if isinstance(header, int) else header if isinstance(header, bytes) else json.dumps(header).encode()
    length = header if isinstance(header, int) else len(text)
    path.write_bytes(struct.pack("<Q", length) + text + bytes(8))
    for read in (read_weights, store.read_tensors):
        try:
            read(path)  # a type that this version of the library knows is no lie
            assert "F8_E8M0" in str(header)
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("0.bias"), "s: lacks 1 entries (0.bias); see 'prefix', 'key' and the model's options"),
        (lambda s: s.update(x=s.pop("0.bias")), "s: lacks 1 entries (0.bias) and has unexpected 1 entries (x); see"),
        (
            lambda s: s.update({f"{i}\n": torch.zeros(1) for i in range(9)}),
            r"s: has unexpected 9 entries ('0\n', '1\n', '2\n', ...); see",
        ),
        (
            lambda s: s.update({"0.weight": torch.zeros(2, 3, 3, 3), "1.bias": torch.zeros(4)}),
            "s: weights of another architecture: 2 of 7 entries differ in shape (0.weight is 2 x 3 x 3 x 3, expected "
            "2 x 1 x 3 x 3; 1.bias is 4, expected 2); see the model's options",
        ),
        (
            lambda s: s.update({"1.bias": torch.zeros(1).expand(10**12)}),
            "s: weights of another architecture: 1 of 7 entries differ in shape (1.bias is 1000000000000, expected 2)",
        ),
        (lambda s: s.update({"1.bias": torch.tensor(0.0)}), "(1.bias is a single number, expected 2)"),
        (lambda s: s["1.bias"].fill_(torch.nan), "s: '1.bias' holds values that are not finite in float32"),
        (lambda s: s["1.bias"].fill_(-torch.inf), "s: '1.bias' holds values that are not finite"),
        (
            lambda s: s.update({"1.bias": torch.full((2,), 1e300, dtype=torch.float64)}),
            "s: '1.bias' holds values that are not finite in float32",
        ),
        (
            lambda s: s.update({"1.bias": torch.zeros(2, dtype=torch.int8)}),
            "s: '1.bias' is int8, expected float32; save it as that",
        ),
        (lambda s: s.update({"1.bias": torch.zeros(2, dtype=torch.bool)}), "s: '1.bias' is bool, expected float32"),
        (lambda s: s.update({"1.bias": torch.zeros(2, dtype=torch.cfloat)}), "s: '1.bias' is complex64, expected"),
        (lambda s: s.update({"1.num_batches_tracked": torch.tensor(0.5)}), "is float32, expected int64"),
        (lambda s: s.update({"1.bias": torch.zeros(2).to_sparse()}), "s: '1.bias' is a sparse, quantised or empty"),
        (lambda s: s.update({"1.bias": torch.zeros(2, device="meta")}), "s: '1.bias' is a sparse, quantised or empty"),
    ],
)
def test_weights_that_do_not_fit_say_how(edit: Callable[[dict[str, Any]], Any], message: str) -> None:
    state = dict(net().state_dict())
    edit(state)
    assert message in refused(lambda: load_weights(net(), state, "s"))


def test_weights_of_another_precision_are_rounded() -> None:
    state = {name: value + 1 / 3 if value.is_floating_point() else value for name, value in net().state_dict().items()}
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        other = net()
        cast = {name: value.to(dtype) for name, value in state.items()}  # the counter, too, as `.half()` has it
        load_weights(other, cast, "s")
        assert torch.equal(other[0].weight, cast["0.weight"].float())
    shaped = state | {"1.num_batches_tracked": torch.tensor([3])}
    load_weights(other, shaped, "s")
    assert other[1].num_batches_tracked == 3


def test_a_file_that_holds_something_else_is_described(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    for content, message in (
        ({1: torch.zeros(1)}, "no state dict of tensors there (it holds 1)"),
        ({"a": torch.zeros(1), 2: torch.zeros(1)}, "(it holds a, 2)"),
        ([torch.zeros(1)], "no state dict of tensors there (it holds list)"),
        (torch.zeros(1), "(it holds Tensor)"),
        ({}, "no name starts with ''; the first is (none)"),
        ({"\n\x1b": 1}, r"(it holds '\n\x1b')"),
    ):
        torch.save(content, path)
        assert message in refused(lambda: read_weights(path))
    assert "has no key 'a'; it holds" in refused(lambda: read_weights(path, "a.b"))


# files of ours


@pytest.mark.parametrize("text", ["", "no json", "[1]", "3", "null", "{" * 5000, "[" * 100_000])
@pytest.mark.parametrize("suffix", [".safetensors", ".parquet"])
def test_metadata_that_are_no_mapping(tmp_path: Path, suffix: str, text: str) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / f"x{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"pipeline": text}), path)
    else:
        save_file({"a": np.zeros(1)}, path, metadata={"pipeline": text})
    message = refused(lambda: store.read_metadata(path))
    assert message == f"{path}: its 'pipeline' metadata are no mapping in JSON; delete it and run again"


@pytest.mark.parametrize("meta", [{}, {"spec": "x"}, {"stage": 3}, {"stage": "a\nb", "spec": {"split": [1]}}])
def test_a_file_of_unknown_origin_is_refused_where_a_stage_is_asked_for(tmp_path: Path, meta: dict[str, Any]) -> None:
    store.write_tensors(tmp_path / "x.safetensors", {"a": np.zeros(1)}, meta)
    assert "a file of unknown origin, expected one of train" in refused(
        lambda: store.read_tensors(tmp_path / "x.safetensors", "train")
    )
    message = refused(lambda: store.provenance("train", {}, "", {"data": tmp_path / "x.safetensors"}))
    assert "x.safetensors: its metadata name no lineage, so it is no input of train" in message


def test_a_table_that_is_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    meta = {"stage": "measure", "spec": {"method": "m"}, "lineage": "x", "device": "cpu", "versions": {}}
    for path in paths:
        columns = {"a": [f"text {number}" for number in range(500)]}
        store.write_table(path, columns, {"a": Column("string", "")}, meta)
    content = bytearray(paths[1].read_bytes())
    content[4:2000] = bytes(255 - byte for byte in content[4:2000])
    paths[1].write_bytes(content)
    out = tmp_path / "out.parquet"
    message = refused(lambda: collect(spec={"kind": "m"}, code="", tables=paths, lineages=[], out=out))
    assert message.startswith(f"{paths[1]}: truncated or damaged (") and not out.exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


# the report

METHODS = {"accuracy": accuracy, "dct_margin": dct_margin, "slices": slices}
VALUES = {"string": "x", "bool": True, "binary": b"x"}


def collected(path: Path, kind: str, changed: dict[str, Any] | None = None, meta: Any = None) -> Path:
    """A table of one row with the columns that a measurement declares, some of them changed or, if None, left out."""
    arrays = {}
    for name, column in {**KEYS, **METHODS[kind].COLUMNS}.items():
        value: Any = VALUES.get(column.type, 1)
        arrays[name] = pa.array([[] if column.type.startswith("list") else value], store.arrow_type(column.type))
    arrays |= changed or {}
    kept = {name: array for name, array in arrays.items() if array is not None}
    metadata = None if meta is None else {store.KEY: json.dumps(meta)}
    pq.write_table(pa.table(kept).replace_schema_metadata(metadata), path)
    return path


@pytest.mark.parametrize("kind", METHODS)
def test_a_table_as_declared_is_read_and_so_is_one_that_other_programs_wrote(tmp_path: Path, kind: str) -> None:
    path = collected(tmp_path / "t.parquet", kind)
    table = read_table(kind, path)
    assert (table.rows, table.provenance) == (1, {})
    assert table.frame is not None and list(table.frame) == [*KEYS, *METHODS[kind].COLUMNS]
    assert read_table(kind, path, wanted=False).frame is None
    pq.write_table(pa.Table.from_pandas(table.frame, preserve_index=False), path)
    pd.testing.assert_frame_equal(read_table(kind, path).frame, table.frame)
    wider = {"seed": pa.array([1.0]), "sample": pa.array(["x"]).dictionary_encode(), "classifier": pa.array([None])}
    collected(path, kind, {**wider, "dataset": pa.array(["x"], pa.large_string()), "new": pa.array([1])})
    assert read_table(kind, path).rows == 1


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("accuracy", {"confidence": pa.array(["0.9"])}, "column 'confidence' is string, expected float"),
        ("accuracy", {"correct": pa.array(["true"])}, "column 'correct' is string, expected bool"),
        ("accuracy", {"correct": pa.array([1])}, "column 'correct' is int64, expected bool"),
        ("accuracy", {"sample": pa.array([7])}, "column 'sample' is int64, expected string"),
        ("accuracy", {"sample": pa.array([b"7"])}, "column 'sample' is binary, expected string"),
        ("accuracy", {"sample": None}, "has no columns 'sample', expected one"),
        ("accuracy", {"severity": pa.array([[1]])}, "column 'severity' is list<"),
        ("accuracy", {"view": pa.array([{"a": 1}])}, "column 'view' is struct<"),
        ("dct_margin", {"margin": pa.array([b"1"])}, "column 'margin' is binary, expected double"),
        ("dct_margin", {"seed": pa.array(["0"])}, "column 'seed' is string, expected int64"),
    ],
)
def test_a_column_of_another_type_is_named(tmp_path: Path, kind: str, changed: Any, message: str) -> None:
    path = collected(tmp_path / f"{kind}.parquet", kind, changed)
    found = refused(lambda: read_table(kind, path))
    assert found.startswith(f"{path}: {message}") and found.endswith("; run collect again")


def test_a_list_of_another_type_and_a_column_twice_are_named(tmp_path: Path) -> None:
    lists = [name for name, column in slices.COLUMNS.items() if column.type.startswith("list<")]
    path = collected(tmp_path / "t.parquet", "slices", {name: pa.array([["x"]]) for name in lists[:1]})
    assert f"column '{lists[0]}' is list<" in refused(lambda: read_table("slices", path))
    table = pq.read_table(collected(path, "accuracy"))
    pq.write_table(table.append_column("label", table["label"]), path)
    assert "has 2 columns 'label', expected one" in refused(lambda: read_table("accuracy", path))


@pytest.mark.parametrize(
    "meta", [3, [], {"measured_on": "cpu"}, {"measured_on": [1]}, {"measured_with": [1]}, {"measured_with": {"a": "1"}}]
)
def test_provenance_of_another_form_is_named(tmp_path: Path, meta: Any) -> None:
    path = collected(tmp_path / "t.parquet", "accuracy", meta=meta)
    assert "its metadata are not those of a table" in refused(lambda: read_table("accuracy", path))


class Tags(HTMLParser):
    """Tags and attributes of a page, and all of its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_markup_in_every_text_of_the_tables_stays_text(tmp_path: Path) -> None:
    frames = make_frames(training="other")
    paths, clean = {}, {}
    out = tmp_path
    for folder, mark in (("clean", ""), ("hostile", MARKUP)):
        for kind, frame in frames.items():
            fixed = {"kind", "norm"}  # words that the code tells apart
            texts = [name for name in frame if frame[name].map(type).eq(str).all() and name not in fixed]
            marked = frame.assign(**{name: frame[name] + mark for name in texts})
            marked = marked.replace({"standard" + mark: "standard", "clean" + mark: "clean"})
            if kind == "perturbation":
                marked["library_warnings"] = mark or None
            meta = {"measured_on": ["cpu" + mark], "measured_with": {"torch" + mark: ["1" + mark]}}
            (tmp_path / folder).mkdir(exist_ok=True)
            paths[kind] = tmp_path / folder / f"{kind}.parquet"
            table = pa.Table.from_pandas(marked, preserve_index=False)
            pq.write_table(table.replace_schema_metadata({store.KEY: json.dumps(meta)}), paths[kind])
        out = tmp_path / folder / "results"
        report(tables=paths, out=out, title="t" + mark, spec={"datasets": {"digits" + mark: {"source": mark}}})
        files = [out / "report/index.html", out / "leaderboard.html", min(out.glob("leaderboards/*/overall.html"))]
        files += [min(out.glob("report/classifiers/*/*.html"))]
        assert not [path for path in out.rglob("*") if not re.fullmatch(r"[\w.-]+", path.name)]
        pages = [path.read_text() for path in files]
        if not mark:
            clean = {number: Tags(page) for number, page in enumerate(pages)}
    for number, page in enumerate(pages):
        found = Tags(page)
        assert MARKUP in found.text, "shown as it is, not filled in as a template either"
        assert set(found.tags) <= set(clean[number].tags)
        assert found.tags.count("script") == clean[number].tags.count("script")
        assert found.attributes <= clean[number].attributes
    for name in ("leaderboard.md", "claims.md"):
        assert "<img" not in re.sub(r"\\<", "", (out / name).read_text())
    drawings = sorted((out / "figures").glob("*.svg"))
    assert len(drawings) > 5
    for drawing in drawings:
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(drawing).iter()}
        assert not tags & {"script", "img", "a", "foreignObject"}
    board = pd.read_csv(out / "leaderboard.csv")
    assert all(text.endswith(MARKUP) for text in board["classifier"])


def test_no_template_switches_escaping_off() -> None:
    assert templating.template("base.html.j2").environment.autoescape is True
    for file in (Path(templating.__file__).parent).rglob("*"):
        if file.suffix in (".j2", ".py"):
            assert not re.search(r"\|\s*safe|autoescape (false|off)|Markup\(", file.read_text()), file


def test_the_report_and_collect_name_a_table_that_is_not_theirs(tmp_path: Path) -> None:
    path = collected(tmp_path / "accuracy.parquet", "accuracy", {"correct": pa.array(["true"])})
    expected = f"{path}: column 'correct' is string, expected bool; run collect again"
    assert refused(lambda: report(tables={"accuracy": path}, out=tmp_path / "out")) == expected
    assert not (tmp_path / "out").exists()
    for meta in ({"tables": {}, "seed": 0}, {"stage": "measure", "spec": 3}, {"stage": "collect", "spec": {}}):
        collected(path, "accuracy", meta=meta)
        given = {"spec": {"kind": "accuracy"}, "code": "", "tables": [path], "lineages": []}
        message = refused(lambda given=given: collect(**given, out=tmp_path / "out.parquet"))
        assert message == f"{path}: a table of no measurement, expected 'accuracy'"
