"""Own data of every objective: `pretune init` proposes the params, and the stages run with them, at a small size."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli import preview
from cli.proposal.inspection import Request
from cli.proposal.propose import propose
from pretune.config import params
from pretune.objectives.requirements import COLUMNS, REFERENCED, TAUGHT
from tasks.finetune import finetune
from tasks.ingest import ingest
from tasks.prepare import prepare
from tasks.pretrain import pretrain
from tasks.reference import reference

ROOT = Path(__file__).parent.parent.parent
SEA = ["harbour", "tide", "anchor", "wave", "boat", "gull"]
KITCHEN = ["flour", "oven", "butter", "spoon", "kettle", "bread"]
N = 60
SMALL = {  # models of one layer, a few steps
    "modernbert": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    "llama": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
              "intermediate_size": 32},
    "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_inner": 32},
    "bart": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
    "vit": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    "linear": {},
}  # fmt: skip


def words(n):
    """A sentence that differs from the others."""
    return f"{n}: " + " ".join(np.random.default_rng(n).choice((SEA, KITCHEN)[n % 2], 6))


def table(path, head, rows):
    """A .csv."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])


def lines(path, rows):
    """A .jsonl."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def question(n):
    """A row of SQuAD."""
    context = f"At place {n} there was Ann{n}, {words(n)}."
    answers = {"text": [f"Ann{n}"], "answer_start": [context.index("Ann")]}
    return {"question": f"Who is at place {n}?", "context": context, "answers": answers}


def images(folder):
    """Images of random pixels, in a folder for each label."""
    for n in range(N):
        place = folder / ("cat", "dog")[n % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(place / f"{n}.png")


def tagged(path):
    """Words with tags, a blank line between sentences."""
    sentences = ["\n".join(f"{w} {'B-SEA' if w in SEA else 'O'}" for w in words(n).split()) for n in range(N)]
    path.write_text("\n\n".join(sentences) + "\n", encoding="utf-8")


def classes(path):
    """A column for each of two classes."""
    table(path, ["text", "u", "v"], [[words(n), n % 2, 1 - n % 4 // 3] for n in range(N)])


def translated(path):
    """Texts in two languages, nested."""
    lines(path, [{"translation": {"en": words(n), "de": words(n + 1)}} for n in range(N)])


def preferred(path):
    """Prompts with a better and a worse answer."""
    lines(path, [{"prompt": f"say {n}", "chosen": words(n), "rejected": words(n + 1)} for n in range(N)])


def judged(path):
    """Prompts with an answer and a verdict."""
    lines(path, [{"prompt": f"say {n}", "completion": words(n), "label": n % 2 == 0} for n in range(N)])


ASKED = {"orpo", "simpo", "reward"}  # with --objective: dpo learns from the same rows
MAKE = {  # {objective: (name of the file, a function that writes it)}
    "binary": ("a.csv", lambda p: table(p, ["review", "mood"], [[words(n), "ab"[n % 2]] for n in range(N)])),
    "classification": ("a.csv", lambda p: table(p, ["id", "text", "label"], [[n, words(n), n % 3] for n in range(N)])),
    "multi_label": ("a.csv", classes),
    "regression": ("a.csv", lambda p: table(p, ["text", "score"], [[words(n), n / 7] for n in range(N)])),
    "token_classification": ("a.txt", tagged),
    "question_answering": ("a.jsonl", lambda p: lines(p, [question(n) for n in range(N)])),
    "seq2seq": ("a.jsonl", translated),
    "instruction": ("a.jsonl", lambda p: lines(p, [{"instruction": f"say {n}", "output": words(n)} for n in range(N)])),
    "dpo": ("a.jsonl", preferred),
    "orpo": ("a.jsonl", preferred),
    "simpo": ("a.jsonl", preferred),
    "reward": ("a.jsonl", preferred),
    "kto": ("a.jsonl", judged),
    "grpo": ("a.jsonl", lambda p: lines(p, [{"prompt": f"say {words(n)}", "solution": str(n)} for n in range(N)])),
    "embedding": ("a.jsonl", lambda p: lines(p, [{"query": words(n), "positive": words(n + N)} for n in range(N)])),
    "language_modelling": ("a.txt", lambda p: p.write_text("\n\n".join(map(words, range(N))), encoding="utf-8")),
    "image_classification": ("photos", images),
    "linear_regression": ("a.csv", lambda p: table(p, ["a", "b", "y"], [[n / 7, n % 5, n / 3] for n in range(N)])),
}  # fmt: skip


def test_every_objective_has_data_here():
    """None is left out."""
    assert MAKE.keys() == COLUMNS.keys() - TAUGHT  # which need a teacher besides data


@pytest.fixture
def benches(tmp_path, make_bench):
    """A function from an objective to the bench of its data, with the proposed params made small."""
    shutil.copy(ROOT / "params.yaml", tmp_path)

    def bench(objective):
        name, make = MAKE[objective]
        make(tmp_path / name)
        asked = objective if objective in ASKED else None
        found = propose(tmp_path, tmp_path, Request([(None, name)], objective=asked, timed=False))
        values = params.validate(_read(tmp_path, found.text)).model_dump()
        values["threads"] = 1
        values["model"]["config"] |= SMALL[values["model"]["type"]]
        values["pretrain"] |= {"steps": 2, "batch_size": 4}
        values["finetune"] |= {"epochs": 1}
        return make_bench(tmp_path, params.validate(values))

    return bench


def _read(folder, text):
    from pretune.config.files import read_yaml

    (folder / "params.yaml").write_text(text, encoding="utf-8")
    return read_yaml(folder / "params.yaml")


SHOWN = {  # a part of what the first row is shown as
    "binary": ("label", "(id "), "classification": ("text", "[CLS]"), "multi_label": ("labels", "ids"),
    "regression": ("score", ""), "token_classification": ("tags", "ids"), "question_answering": ("answers", "Ann"),
    "seq2seq": ("target", "[CLS]"), "instruction": ("conversation", preview.OPEN), "language_modelling": ("tokens", ""),
    **dict.fromkeys(("dpo", "orpo", "simpo", "reward"), ("rejected", ": ")), "kto": ("desirable", "yes"),
    "grpo": ("target", "0"),
    "embedding": ("pair", ": "),
    "image_classification": ("image", "8 x 8, 3 channels"), "linear_regression": ("x", "a "),
}  # fmt: skip


@pytest.mark.parametrize("objective", MAKE)
def test_own_data_lead_from_files_to_a_model(objective, benches):
    """The objective is found, the stages run, and the first rows are shown as the model gets them."""
    place = benches(objective)
    assert place.params.finetune.objective == objective
    if objective in REFERENCED:
        place.declared = {"models": ["models/pretrained"], "data": ["data/reference"]}.__getitem__
    for stage in (ingest, prepare, pretrain, *([reference] if objective in REFERENCED else []), finetune):
        place.name = stage.__name__
        stage(place)
    assert (place.folder / "models/finetuned/model.safetensors").is_file()
    first = preview.rows(place.folder, place.params)[0]
    name, part = SHOWN[objective]
    assert part in first[name]
