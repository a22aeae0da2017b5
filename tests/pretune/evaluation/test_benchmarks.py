from __future__ import annotations

import copy
import io
import json
import sys
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pretune.errors import DataError, ParamsError, WorkspaceError
from pretune.evaluation.benchmarks import tasks

DATA = "dataset_path: json\ndataset_kwargs: {data_files: {test: bench/rows.jsonl}}\ntest_split: test\n"
CHOICE = f"""task: choice
{DATA}output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
"""
WRITTEN = f"""task: written
{DATA}output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[gold]}}}}"
generation_kwargs: {{until: ["6", "<"], max_gen_toks: 9}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
  - {{metric: chrf, aggregation: chrf, higher_is_better: true}}
"""
ROLLING = f"""task: rolling
{DATA}output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question * 12}}}}"
"""
FILES = {"choice": CHOICE, "written": WRITTEN, "rolling": ROLLING}
NAMES = [f"bench/{name}.yaml" for name in FILES]
ROWS = [
    {"question": f"number {row} is about", "choices": ["waves", "salt", "flour oven"], "gold": row % 3}
    for row in range(20)
]


@pytest.fixture
def workspace(tmp_path):
    """Three task files and twenty rows."""
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n", encoding="utf-8")
    for name, text in FILES.items():
        (tmp_path / f"bench/{name}.yaml").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def plain(words):
    """The tokenizer as most decoders have theirs: with the names of its special tokens, none around a text."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(words)
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    tokenizer.bos_token, tokenizer.eos_token = words.cls_token, words.sep_token
    return tokenizer


@pytest.fixture
def model(tiny):
    """A function to a small Llama; the seed draws its weights."""
    from pretune.models import build
    from pretune.objectives.pretraining.causal_lm import CausalLM

    def draw(seed=0):
        torch.manual_seed(seed)
        return build.new(CausalLM, tiny("llama")).eval()

    return draw


@pytest.fixture
def asked(workspace, plain, model, params):
    """A function that asks small models: (results, samples of each task, requests that were cut)."""
    pytest.importorskip("lm_eval", reason="pip install 'pretune[lm-eval]'")
    from pretune.evaluation.benchmarks import decoder, harness

    def ask(*names, seeds=(0,), chats=False, tokenizer=plain, length=None):
        def load(seed):
            loaded = decoder.Decoder(model(seed), tokenizer, chats=chats)
            loaded.max_length = length or loaded.max_length
            return loaded

        models = {("finetuned", "base")[place]: partial(load, seed) for place, seed in enumerate(seeds)}
        settings = params.evaluate.model_copy(update={"bootstrap_samples": 200})
        results, files, cut = harness.run(names, lambda path: workspace / path, models, settings, 0, chats=chats)
        return results, files, cut

    return ask


def samples(text):
    """Those of a file."""
    return [json.loads(line) for line in text.splitlines()]


def log_probabilities(model, ids):
    """Of the next tokens: (tokens, vocabulary)."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)


def test_the_likeliest_choice_is_the_answer(asked, model, plain):
    """By the log-likelihoods of one sequence at a time; each sample's result is kept, the score is their mean."""
    results, files, _ = asked("bench/choice.yaml")
    right = []
    for row, sample in zip(ROWS, samples(files["choice.jsonl"]), strict=True):
        scores = []
        for choice in row["choices"]:
            start, ids = (plain(text)["input_ids"] for text in (row["question"], f"{row['question']} {choice}"))
            found = log_probabilities(model(), ids)
            scores.append(sum(float(found[place - 1, ids[place]]) for place in range(len(start), len(ids))))
        assert [score for score, _ in sample["filtered_resps"]] == pytest.approx(scores, abs=1e-4)
        right.append(float(np.argmax(scores) == row["gold"]))
        assert sample["acc"] == right[-1]
    assert 0 < sum(right) < 20
    assert results["choice/acc"]["finetuned"]["value"] == pytest.approx(np.mean(right), abs=1e-4)
    assert results["choice/acc"]["samples"] == 20


def test_answers_are_the_likeliest_tokens_up_to_where_the_task_ends_them(asked, model, plain):
    """A text in `until` ends an answer and is not part of it; so does the end of a text."""
    _, files, _ = asked("bench/written.yaml")
    cut = 0
    for row, sample in zip(ROWS, samples(files["written.jsonl"]), strict=True):
        ids = plain(row["question"])["input_ids"]
        start = len(ids)
        while len(ids) < start + 9 and ids[-1] != plain.eos_token_id:
            ids.append(int(log_probabilities(model(), ids)[-1].argmax()))
        whole = plain.decode(ids[start:], skip_special_tokens=True)
        text = whole.split("6")[0].split("<")[0]
        assert sample["filtered_resps"] == [text]
        cut += text != whole
    assert 0 < cut < 20


def test_scores_are_those_of_the_harness_adapter(asked, workspace, model, plain, monkeypatch):
    """HFLM, alone with the same model: choices, generated answers and texts longer than the model reads."""
    results, files, _ = asked(*NAMES, length=48)
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.chdir(workspace)
    peer = HFLM(pretrained=model(), tokenizer=plain, device="cpu", batch_size=3, max_length=48)
    loaded = TaskManager(include_defaults=False).load(NAMES)
    for task in loaded["tasks"].values():
        task.set_config("num_fewshot", 0)
    found = evaluator.evaluate(peer, loaded, bootstrap_iters=0)
    for name, theirs in found["samples"].items():
        for one, other in zip(samples(files[f"{name}.jsonl"]), theirs, strict=True):
            assert np.array(one["resps"]).shape == np.array(other["resps"]).shape
            if name == "written":
                assert one["resps"] == other["resps"]
            else:
                numbers = [np.array(sample["resps"], dtype=float).ravel() for sample in (one, other)]
                assert numbers[0] == pytest.approx(numbers[1], abs=1e-3)
    for key, entry in results.items():
        task, _, metric = key.partition("/")
        assert entry["finetuned"]["value"] == pytest.approx(found["results"][task][f"{metric},none"], rel=1e-3)
    assert results["rolling/bits_per_byte"]["higher_is_better"] is False


def test_differences_are_paired_and_above_0_where_the_first_is_better(asked):
    """On the same samples, whichever direction is better; no model is better than itself."""
    results, _, _ = asked("bench/choice.yaml", "bench/rolling.yaml", seeds=(0, 1))
    for key, entry in results.items():
        sign = 1 if entry["higher_is_better"] else -1
        own, other, gain = entry["finetuned"]["value"], entry["base"]["value"], entry["gain"]["base"]
        assert gain["value"] == pytest.approx(sign * (own - other), abs=2e-4 + 2e-3 * own), key
    perplexity = results["rolling/word_perplexity"]
    widths = [part["high"] - part["low"] for part in (perplexity["gain"]["base"], perplexity["base"])]
    assert perplexity["gain"]["base"]["value"] != 0
    assert widths[0] < 2 * widths[1]
    same = asked("bench/choice.yaml", seeds=(0, 0))[0]["choice/acc"]["gain"]["base"]
    assert (same["low"], same["value"], same["high"]) == (0, 0, 0)


def test_the_same_models_give_the_same_bytes(asked):
    """No times, no commits, no paths of this machine."""
    first, second = (asked(*NAMES, seeds=(0, 1)) for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
    assert "/" not in json.dumps([list(sample) for sample in samples(first[1]["choice.jsonl"])])


def test_chat_models_are_asked_in_their_template(asked, plain):
    """As in training: the question is a user's message."""
    from pretune.predictor import conversation

    _, files, _ = asked("bench/choice.yaml", chats=True)
    turn = [{"role": "user", "content": ROWS[0]["question"]}]
    prompt = conversation.render(plain, turn, add_generation_prompt=True)
    assert prompt != ROWS[0]["question"]
    assert {context for context, _ in samples(files["choice.jsonl"])[0]["arguments"]} == {prompt}


def test_texts_begin_as_in_training(asked, words, model):
    """With the tokens that the tokenizer puts before a text, without those behind it; what is cut is counted."""
    _, files, cut = asked("bench/choice.yaml", tokenizer=words, length=6)
    assert cut == {"finetuned": sum(len(words(f"{row['question']} {choice}")["input_ids"]) - 1 > 7
                                    for row in ROWS for choice in row["choices"])}  # fmt: skip
    _, files, cut = asked("bench/choice.yaml", tokenizer=words)
    ids = words(f"{ROWS[0]['question']} waves")["input_ids"][:-1]
    start = len(words(ROWS[0]["question"])["input_ids"]) - 1
    found = log_probabilities(model(), ids)
    score = sum(float(found[place - 1, ids[place]]) for place in range(start, len(ids)))
    assert samples(files["choice.jsonl"])[0]["filtered_resps"][0][0] == pytest.approx(score, abs=1e-4)
    assert cut == {"finetuned": 0}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("doc_to_target: gold", "doc_to_target: !function code.target", "`!function`|'!function'"),
        ("task: choice", "task: choice\nunsafe_code: true", "unsafe_code is not allowed"),
        ("task: choice", "task: choice\ninclude: other.yaml", "include is not allowed"),
        ("test: bench/rows.jsonl}", "test: bench/rows.jsonl}, trust_remote_code: true", "trust_remote_code"),
        ("dataset_path: json", "dataset_path: someone/data", "dataset_path someone/data"),
        ("bench/rows.jsonl", "../rows.jsonl", "not a path within the workspace"),
        ("bench/rows.jsonl", "https://example.com/rows.jsonl", "not a path within the workspace"),
        ("bench/rows.jsonl", "bench/none.jsonl", "bench/none.jsonl: no such file"),
        ("task: choice", "task: choice\nmetric_list: [{metric: acc_nrom}]", "did you mean acc_norm"),
        ("output_type: multiple_choice\n", "", "output_type is missing"),
        ("task: choice", "task: [", "bench/choice.yaml: "),
    ],
)
def test_files_that_would_run_code_or_cannot_be_read_are_refused(workspace, old, new, said):
    """Before any stage works, with the file's name."""
    file = workspace / "bench/choice.yaml"
    file.write_text(CHOICE.replace(old, new), encoding="utf-8")
    with pytest.raises(DataError, match=said) as caught:
        tasks.check(["bench/choice.yaml"], workspace, ["bench"])
    assert all("bench/choice.yaml" in problem for problem in caught.value.problems)


def test_templates_run_in_a_sandbox(asked, workspace):
    """A template of a task cannot reach the interpreter."""
    reach = "{{ question.__class__.__mro__[1].__subclasses__() }}"
    (workspace / "bench/choice.yaml").write_text(CHOICE.replace("{{question}}", reach), encoding="utf-8")
    with pytest.raises(DataError, match="unsafe"):
        asked("bench/choice.yaml")


def test_metrics_are_those_of_the_harness():
    """Other names would be fetched, as code."""
    pytest.importorskip("lm_eval", reason="pip install 'pretune[lm-eval]'")
    import lm_eval.api.metrics  # noqa: F401 - registers them
    from lm_eval.api import registry

    assert set(registry.METRIC_REGISTRY) - {"bypass"} == tasks.METRICS
    assert set(registry.AGGREGATION_REGISTRY) - {"bypass"} == tasks.AGGREGATIONS


def test_answers_are_never_sampled(asked, workspace):
    """A task that samples is refused, not asked otherwise than it says."""
    (workspace / "bench/written.yaml").write_text(
        WRITTEN.replace("max_gen_toks: 9", "max_gen_toks: 9, do_sample: true"), encoding="utf-8"
    )
    with pytest.raises(DataError, match="written: generation_kwargs"):
        asked("bench/written.yaml")


def test_what_benchmarks_need_is_said_before_any_work(workspace, monkeypatch):
    """Deps in dvc.yaml, permission to fetch, the package; nothing is needed without benchmarks."""
    tasks.check(NAMES, workspace, ["bench"])
    with pytest.raises(DataError, match=r"pretune data declare 'bench/rows.jsonl' --stage evaluate"):
        tasks.check(NAMES, workspace, NAMES)
    with pytest.raises(ParamsError, match="hellaswag") as caught:
        tasks.check(["hellaswag"], workspace, [])
    assert "PRETUNE_DOWNLOAD=1" in caught.value.next_step
    monkeypatch.setenv("PRETUNE_DOWNLOAD", "1")
    tasks.check(["hellaswag"], workspace, [])
    monkeypatch.setattr(tasks, "PACKAGE", "no_such_package")
    with pytest.raises(WorkspaceError) as missing:
        tasks.check(NAMES, workspace, ["bench"])
    assert missing.value.next_step == "pip install 'pretune[lm-eval]'"
    tasks.check([], workspace, [])


def test_tasks_out_of_reach_are_told_before_any_work_with_what_to_do(monkeypatch):
    """All at once, in a process before the stages; tasks in files need no network and no process."""
    pytest.importorskip("lm_eval", reason="pip install 'pretune[lm-eval]'")
    from pretune.evaluation.benchmarks import harness

    class Harness:
        task_index, all_tasks = {"hellaswag": 1, "mmlu": 1}, ("hellaswag", "mmlu")

        def __init__(self, **_): ...

        def load(self, names):
            raise ConnectionError(f"Couldn't reach '{names[0]}' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(harness, "TaskManager", Harness)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert harness.main(["hellaswag", "mmlu", "hellaswga"]) == 0
    printed = sys.stdout.getvalue()
    child = SimpleNamespace(stdout=io.StringIO("loading\n" + printed), returncode=0)
    with pytest.raises(DataError) as caught:
        tasks.fetch([*NAMES, "hellaswag", "mmlu", "hellaswga"], lambda *_: nullcontext(child))
    reached = "Couldn't reach '{0}' on the Hub (OfflineModeIsEnabled)"
    assert caught.value.problems[:2] == [
        f"evaluate.benchmarks: {name}: {reached.format(name)}" for name in ("hellaswag", "mmlu")
    ]
    assert "did you mean hellaswag?" in caught.value.problems[2]
    assert caught.value.next_step == tasks.FETCH
    tasks.fetch(NAMES, None)


def test_of_a_long_question_the_end_is_read_and_it_is_counted(plain, model, monkeypatch):
    """So much of it as leaves room for the answer."""
    pytest.importorskip("lm_eval", reason="pip install 'pretune[lm-eval]'")
    from pretune.evaluation.benchmarks import decoder

    loaded = decoder.Decoder(model(), plain, chats=False)
    loaded.max_length, read = 20, []
    monkeypatch.setattr(decoder.decoding, "generate", lambda _, prompts, *__: read.extend(prompts) or [[9], [9]])
    texts = ["salt", " ".join(f"waves {number}" for number in range(30))]
    options = {"until": ["."], "max_gen_toks": 8, "do_sample": False}
    loaded.generate_until([SimpleNamespace(args=(text, options), task_name="written") for text in texts])
    assert read == [loaded.tok_encode(text)[-12:] for text in texts]
    assert loaded.cut == 1
