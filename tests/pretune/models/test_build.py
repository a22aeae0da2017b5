from __future__ import annotations

import hashlib
import json

import pytest
import torch

from pretune.data import tokenizer
from pretune.errors import DataError
from pretune.models import build
from pretune.objectives.finetuning.classification import Classification
from pretune.objectives.pretraining.masked_lm import MaskedLM

FAMILIES = pytest.mark.parametrize("family", ["modernbert", "bert", "roberta"])
LABELS = ["a", "b", "c"]


@FAMILIES
def test_a_saved_model_opens_with_the_same_weights(family, tiny, words, tmp_path):
    """In transformers' own format: safetensors and tokenizer; weights are equal bit for bit, logits up to rounding."""
    model = build.new(Classification, tiny(family), LABELS).eval()
    build.save(model, words, tmp_path / "model", {})
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert not list((tmp_path / "model").glob("*.bin"))
    ids = tokenizer.load(tmp_path / "model")("salt and flour", return_tensors="pt")["input_ids"]
    loaded = build.load(Classification, tmp_path / "model")[0]
    weights = loaded.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.allclose(loaded(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5)
    assert loaded.config.id2label == dict(enumerate(LABELS))


@FAMILIES
def test_a_classifier_starts_from_the_pretrained_encoder(family, tiny, words, tmp_path):
    """Every weight of the encoder is the pretrained one; only the head is new."""
    pretrained = build.new(MaskedLM, tiny(family))
    build.save(pretrained, words, tmp_path / "model", {})
    classifier = build.load(Classification, tmp_path / "model", LABELS)[0]
    old = pretrained.base_model.state_dict()
    new = classifier.base_model.state_dict()
    shared = old.keys() & new.keys()
    assert len(shared) == len(old)
    assert all(torch.equal(old[name], new[name]) for name in shared)
    assert classifier.config.num_labels == 3


@FAMILIES
def test_the_longest_sequence_fits(family, tiny, words):
    """A model takes as many tokens as its tokenizer returns at most."""
    model = build.new(MaskedLM, tiny(family)).eval()
    ids = torch.full((1, words.model_max_length), 300)
    assert model(input_ids=ids).logits.shape == (1, 64, len(words))


@FAMILIES
def test_saving_twice_gives_the_same_bytes(family, tiny, words, tmp_path):
    """The folder is a function of the model: no dates, no absolute paths."""
    model = build.new(Classification, tiny(family), LABELS)
    hashes = []
    for name in ("one", "two"):
        build.save(model, words, tmp_path / name, {})
        files = sorted((tmp_path / name).iterdir())
        hashes.append({file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files})
    assert hashes[0] == hashes[1]
    assert str(tmp_path) not in (tmp_path / "one" / "config.json").read_text(encoding="utf-8")


def test_the_path_of_the_pretrained_model_is_not_in_the_result(tiny, words, tmp_path):
    """A model finetuned from a folder does not contain that folder's path."""
    build.save(build.new(MaskedLM, tiny()), words, tmp_path / "pretrained", {})
    build.save(build.load(Classification, tmp_path / "pretrained", LABELS)[0], words, tmp_path / "tuned", {})
    for file in (tmp_path / "tuned").glob("*.json"):
        assert str(tmp_path) not in file.read_text(encoding="utf-8"), file.name


def test_new_weights_follow_from_the_seed(tiny):
    """Models built after the same seed are equal; after another one they are not."""
    weights = []
    for seed in (0, 0, 1):
        config = tiny()
        torch.manual_seed(seed)
        weights.append(next(iter(build.new(MaskedLM, config).parameters())))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("nested", [False, True])
def test_a_model_that_asks_to_run_code_is_refused(tiny, words, tmp_path, nested):
    """`auto_map` at any depth of config.json is an error, and the code is not run."""
    build.save(build.new(Classification, tiny(), LABELS), words, tmp_path / "model", {})
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    own = {"auto_map": {"AutoModelForSequenceClassification": "own.Own"}}
    config |= {"text_config": own} if nested else own
    path.write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "model" / "own.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    with pytest.raises(DataError, match="auto_map"):
        build.load(Classification, tmp_path / "model")[0]
    with pytest.raises(DataError, match="auto_map"):
        build.load(Classification, tmp_path / "model", LABELS)


def test_more_files_lie_beside_the_weights(tiny, words, tmp_path):
    """As JSON, in folders of the model's."""
    build.save(build.new(MaskedLM, tiny()), words, tmp_path / "model", {}, files={"1_Pooling/config.json": {"a": 1}})
    assert json.loads((tmp_path / "model/1_Pooling/config.json").read_text(encoding="utf-8")) == {"a": 1}
