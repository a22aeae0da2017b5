"""Whatever a file holds: rows that are accounted for, or an error that names it; no crash, no hang.

Any other exception than PretuneError fails.

`make fuzz` runs the same properties for ten minutes, with other examples each time.
"""

from __future__ import annotations

import importlib.util
import io
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pretune.config import params as config
from pretune.config.data import IngestParams
from pretune.config.files import read_yaml
from pretune.data import tokenizer
from pretune.data.ingest.columns import ColumnMapping
from pretune.data.ingest.sources import read
from pretune.data.ingest.values import BadRowError
from pretune.errors import PretuneError
from pretune.lineage.graph import Workspace
from pretune.models import build, weights
from pretune.objectives.finetuning.classification import Classification
from pretune.predictor.pixels import pixels
from pretune.release import predict

SPEC = importlib.util.spec_from_file_location("seeds", Path(__file__).parent / "seeds.py")
seeds = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(seeds)

PHASES = [phase for phase in Phase if phase is not Phase.shrink]  # that of a graph would take hours
pytestmark = pytest.mark.filterwarnings("ignore")  # libraries warn of what is broken


def few(examples):
    """That many examples here, and under `make fuzz` as many as its profile says."""
    if settings.get_current_profile_name() == "fuzz":
        return settings(phases=PHASES)
    return settings(max_examples=examples, phases=PHASES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which each example replaces the file of the one before."""
    return tmp_path_factory.mktemp("any")


@pytest.fixture(scope="module")
def model(tmp_path_factory, shared_words):
    """The folder of a small model that tells two classes, as a stage writes it."""
    from transformers import BertConfig

    folder = tmp_path_factory.mktemp("model") / "small"
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    small = BertConfig(vocab_size=len(shared_words), max_position_embeddings=16, **shape)
    build.save(build.new(Classification, small, ["a", "b"]), shared_words, folder, {"answers": "class"})
    return folder


@pytest.fixture(scope="module")
def ingest(params_file):
    """The section `ingest`, as it is, with changes."""
    section = read_yaml(params_file)["ingest"]
    return lambda **changes: IngestParams.model_validate(section | {"columns": {}, "labels": {}} | changes)


@given(st.data())
@few(200)
def test_any_file_gives_rows_or_an_error_that_names_it(folder, ingest, ends, data):
    """Each record becomes a row, or is bad with a reason; each origin is in the file."""
    name = data.draw(st.sampled_from(sorted(seeds.data())))
    content = data.draw(seeds.mutated(seeds.data()[name]))
    (folder / name).write_bytes(content)
    place = f"sqlite:///{name}#rows" if name == "a.db" else name
    params = ingest(source=place, format="idx" if name.endswith("ubyte") else "auto")
    mapping = ColumnMapping(params)
    with ends():
        try:
            for _, record in read.read(params, lambda path: folder / path):
                assert record.origin.startswith("rows:" if name == "a.db" else name), record.origin
                assert with_reason(mapping, record)
        except PretuneError as error:
            assert name in str(error), error  # noqa: PT017 - most examples raise nothing


def with_reason(mapping, record):
    """The row of a record, or why there is none."""
    try:
        return mapping.row(record)
    except BadRowError as error:
        return error.reason


@given(st.data())
@few(80)
def test_any_lines_are_accounted_for(folder, ingest, ends, data):
    """Of text, of JSON and of words with tags: as many records as there are lines, or sentences, that are not blank."""
    name = data.draw(st.sampled_from(["a.jsonl", "a.txt", "a.conll"]))
    content = data.draw(seeds.mutated(seeds.data()[name]))
    (folder / name).write_bytes(content)
    params = ingest(source=name, format="lines" if name == "a.txt" else "auto")
    text = content.decode("utf-8-sig", "surrogateescape")
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        with ends():
            records = [record for _, record in read.read(params, lambda path: folder / path)]
    except PretuneError:
        return
    if name == "a.conll":
        words = sum(len(record.values["words"]) for record in records)
        others = [line for line in lines if line.startswith(("-DOCSTART-", "#"))]
        assert len(lines) - len(others) <= words <= len(lines)
    else:
        assert len(records) == len(lines)


@given(st.data())
@few(12)
def test_any_params_are_params_or_an_error(folder, params_file, ends, data):
    """The whole file, as YAML and by the schema."""
    path = folder / "params.yaml"
    path.write_bytes(data.draw(seeds.mutated(params_file.read_bytes())))
    with ends():
        no_other_error(lambda: config.load(path))


@given(st.data())
@few(6)
def test_any_graph_is_a_graph_or_an_error(done, ends, data):
    """dvc.yaml and dvc.lock, as DVC and as we read them."""
    name = data.draw(st.sampled_from(["dvc.yaml", "dvc.lock"]))
    content = (done / name).read_bytes()
    try:
        (done / name).write_bytes(data.draw(seeds.mutated(content)))
        with ends():
            no_other_error(lambda: Workspace(done).plan([]))
            no_other_error(lambda: Workspace(done).locked_outputs())
    finally:
        (done / name).write_bytes(content)


@given(st.data())
@few(80)
def test_any_rows_can_be_predicted_or_are_told(folder, ends, data):
    """What `pretune predict` reads: tables, lines, images."""
    name = data.draw(st.sampled_from(["a.jsonl", "a.csv", "a.txt", "a.png", "a.jpg", "b.tif"]))
    path = folder / name
    path.write_bytes(data.draw(seeds.mutated(seeds.data()[name])))
    with ends():
        if path.suffix in {".png", ".jpg", ".tif"}:
            no_other_error(lambda: pixels(path.read_bytes(), 8, 3).shape == (3, 8, 8), OSError)
        else:
            rows = partial(predict.read_rows, [path], io.BytesIO(), "text")
            no_other_error(lambda: list(predict.validate(rows(), {"text": "string", "pair": "string?"})))
            no_other_error(lambda: list(predict.validate(predict.as_conversations(rows(), "x"), {"messages": "list"})))


@given(st.data())
@few(15)
def test_any_folder_of_a_model_opens_or_is_refused(model, folder, ends, data):
    """Configuration, tokenizer, weights and our own file: each damaged in turn."""
    name = data.draw(st.sampled_from(sorted(path.name for path in model.iterdir())))
    shutil.rmtree(folder / "model", ignore_errors=True)
    shutil.copytree(model, folder / "model")
    (folder / "model" / name).write_bytes(data.draw(seeds.mutated((model / name).read_bytes())))
    with ends():
        no_other_error(lambda: build.load(Classification, folder / "model"))
        no_other_error(lambda: tokenizer.pretrained(folder / "model", 16))
        no_other_error(lambda: weights.header(weights.files(build.location(folder / "model"))))


def no_other_error(action, *more):
    """Run it; only errors for the user may come out, and `more`."""
    with suppress(PretuneError, *more):
        action()
