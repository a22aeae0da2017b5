from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
import torch

from pretune.adaptation import adapters
from pretune.errors import DataError
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.instruction import Instruction
from pretune.predictor.chat import Reply
from pretune.predictor.model import Predictor
from pretune.release.export import decoders, gguf_file
from pretune.release.export.parity import Parity, record

ROWS = [
    {"messages": [{"role": "user", "content": f"number {n} is about"}, {"role": "assistant", "content": "salt"}]}
    for n in range(4)
]
ASKED = ROWS[0]["messages"][:1]
FAMILIES = {"llama": {}, "qwen2": {}, "qwen3": {"head_dim": 32}}


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    """Two prompts, eight tokens each: enough to see a difference."""
    monkeypatch.setattr(decoders, "ROWS", 2)
    monkeypatch.setattr(decoders, "TOKENS", 8)


@pytest.fixture
def chat(tiny, words, tmp_path):
    """A function from a family to the folder of a tiny chat model with rank-2 adapters beside it, and its predictor."""

    def save(family="llama"):
        settings = Instruction.Settings(template=None, reply_tokens=8, loss="all", reasoning="trained", too_long="cut")
        context = ObjectiveContext(words, 64, 0, settings, [])
        Instruction([], context)
        config = tiny(family)
        config.update({"num_key_value_heads": 1} | FAMILIES[family])
        base = build.new(Instruction, config)
        with torch.no_grad():
            for parameter in base.parameters():  # far from uniform, so that a wrong tensor changes the text
                parameter.mul_(4 if parameter.dim() > 1 else 1).add_(0.1 * torch.randn_like(parameter))
        build.save(base, words, tmp_path / f"{family}-base", Instruction.inference_config(context))
        adapters.add(base, adapters.config_of("lora", {"r": 2, "init_lora_weights": False}, base))
        adapter = adapters.weights(base)
        folder = tmp_path / family
        build.save(adapters.merge(base).eval(), words, folder, Instruction.inference_config(context))
        adapters.save(adapter, folder / "adapter")
        return folder, Predictor(str(folder)).answers

    return save


def export(chat, target, to, precision=None, family="llama"):
    """The parity of a tiny model that is exported to `target`."""
    folder, model = chat(family)
    base = folder.with_name(f"{family}-base")
    return decoders.export(model, ROWS, target, to=to, precision=precision, source=folder, base=base)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_llama_cpp_writes_what_the_model_writes(chat, tmp_path, family):
    """It loads the GGUF file, renders the chat template, splits texts into the same tokens, and finds the same ones."""
    pytest.importorskip("xllamacpp", reason="pip install 'pretune[gguf]'")
    parity = export(chat, tmp_path / "out", "gguf", family=family)
    assert (parity.texts, parity.rendered) == (1, 1)
    assert parity.difference < decoders.TOLERANCE["f16"]
    (written,) = json.loads((tmp_path / "out" / "parity.json").read_text(encoding="utf-8"))
    assert written == vars(parity) | {"file": "model-f16.gguf"}


@pytest.mark.parametrize("precision", ["f32", "bf16", "q8_0"])
def test_a_gguf_file_has_the_precision_that_was_asked_for(chat, tmp_path, precision):
    """It differs by less than what is allowed for it."""
    pytest.importorskip("xllamacpp", reason="pip install 'pretune[gguf]'")
    parity = export(chat, tmp_path / "out", "gguf", precision)
    assert (parity.file, parity.tolerance) == (f"model-{precision}.gguf", decoders.TOLERANCE[precision])


def test_a_wrong_tensor_is_noticed(chat, tmp_path, monkeypatch):
    """Heads in another order make another model, which is not kept."""
    pytest.importorskip("xllamacpp", reason="pip install 'pretune[gguf]'")
    monkeypatch.setattr(gguf_file, "_permuted", lambda values, heads: values)
    with pytest.raises(DataError, match="differs by"):
        export(chat, tmp_path / "out", "gguf")
    assert not (tmp_path / "out").exists()


def test_merged_weights_open_in_plain_transformers(chat, tmp_path):
    """With the chat template, and the end of a turn in the configuration of generation, so that servers stop."""
    parity = export(chat, tmp_path / "out", "safetensors")
    assert (parity.difference < decoders.SAME, parity.texts, parity.rendered) == (True, 1, 1)
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text(encoding="utf-8"))
    tokens = json.loads((tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    assert generation["eos_token_id"] == next(token["id"] for token in tokens if token["content"] == "[SEP]")
    assert (tmp_path / "out" / "chat_template.jinja").is_file()


def test_weights_may_be_rounded(chat, tmp_path):
    """bf16 halves them; the configuration names their type."""
    export(chat, tmp_path / "out", "safetensors", "bf16")
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"


def test_adapters_open_in_peft_on_their_base(chat, tmp_path):
    """They name it; on another base they are another model, which is not kept."""
    parity = export(chat, tmp_path / "out", "adapter")
    assert parity.difference < decoders.SAME
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["base_model_name_or_path"], config["task_type"]) == (str(tmp_path / "llama-base"), "CAUSAL_LM")
    folder, model = tmp_path / "llama", Predictor(str(tmp_path / "llama")).answers
    with pytest.raises(DataError, match="differs by"):
        decoders.export(model, ROWS, tmp_path / "new", to="adapter", precision=None, source=folder, base=folder)


def test_a_model_that_does_not_stop_is_not_kept(chat, tmp_path, monkeypatch):
    """A server that misses the end of a turn would go on."""
    folder, model = chat()
    with torch.no_grad():
        model.model.lm_head.weight[model.tokenizer.sep_token_id] = 100 * model.model.lm_head.weight[7]
    model.model.save_pretrained(folder)
    monkeypatch.setattr(decoders, "set_ends", lambda config, tokenizer: setattr(config, "eos_token_id", 5))
    with pytest.raises(DataError, match="does not stop"):
        decoders.export(model, ROWS, tmp_path / "out", to="safetensors", precision=None, source=folder, base=folder)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"model_type": "gemma"}, "a gemma"), ({"hidden_act": "gelu"}, "gelu"), ({"sliding_window": 8}, "window")],
)
def test_what_gguf_cannot_hold_is_named(chat, tmp_path, monkeypatch, changes, named):
    """With llama.cpp's own converter as the next step, and no file."""
    folder, model = chat("qwen2")
    for name, value in changes.items():
        monkeypatch.setattr(model.model.config, name, value)
    with pytest.raises(DataError, match=named) as error:
        decoders.export(model, ROWS, tmp_path / "out", to="gguf", precision=None, source=folder, base=folder)
    assert "convert_hf_to_gguf.py" in error.value.next_step
    assert not (tmp_path / "out").exists()


def test_conversations_that_a_server_would_write_otherwise_are_counted(chat, tmp_path):
    """A template without a place for thoughts leaves them out; training writes them before the answer."""
    folder, model = chat()
    thought = [{"role": "assistant", "content": "", "reasoning": "is"}, {"role": "user", "content": "is"}]
    rows = [ROWS[0], {"messages": thought}]
    parity = decoders.export(
        model, rows, tmp_path / "out", to="safetensors", precision=None, source=folder, base=folder
    )
    assert parity.rendered == 0.5


def test_the_client_of_openai_gets_what_the_model_writes(chat, tmp_path, root):
    """Whole and streamed, from `pretune serve`, on the loopback; who lacks the key that it prints gets no answer.

    So neither a page of another site, nor one whose name leads here, nor another user of the machine.
    """
    pytest.importorskip("xllamacpp", reason="pip install 'pretune[gguf]'")
    openai = pytest.importorskip("openai")
    export(chat, tmp_path / "out", "gguf")
    command = [sys.executable, "-m", "cli.app", "serve", str(tmp_path / "out"), "--port", "0", "--name", "mine"]
    expected = [answer["text"] for answer in Predictor(str(tmp_path / "llama")).answers([{"messages": ASKED}])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as server:
        try:
            _, address, _, key, *_ = server.stdout.readline().split()
            assert address.startswith("http://127.0.0.1:")
            for path in ("/chat/completions", "/../completion", "/../tokenize", "/../apply-template"):
                page = urllib.request.Request(
                    f"{address}{path}", b"{}", {"Host": "evil.example", "Content-Type": "text/plain"}
                )
                with pytest.raises(urllib.error.HTTPError, match="401"):
                    urllib.request.urlopen(page)
            with openai.OpenAI(base_url=address, api_key=key) as client:
                asked = {"model": "mine", "messages": ASKED, "temperature": 0, "max_tokens": 8}
                whole = client.chat.completions.create(**asked)
                assert [choice.message.content.strip() for choice in whole.choices] == expected
                parts = [
                    part.choices[0].delta.content or ""
                    for part in client.chat.completions.create(**asked, stream=True)
                    if part.choices
                ]
                assert "".join(parts).strip() == expected[0]
                assert len(parts) > 2
                answer = client.models.with_raw_response.list(extra_headers={"Origin": "http://elsewhere.example"})
                assert not answer.headers.get("Access-Control-Allow-Origin")
        finally:
            server.terminate()


def test_a_difference_that_is_no_number_is_above_every_tolerance(tmp_path):
    """Of weights that are not finite nothing is kept."""
    with pytest.raises(DataError, match="differs by nan"):
        record([Parity("model", 1.0, 1, difference=float("nan"), agreement=1.0, tolerance=0.1)], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("to", "precision"), [("safetensors", None), ("gguf", "f16"), ("gguf", "q8_0")])
def test_a_real_model_answers_as_before(smollm2, tmp_path, to, precision):
    """SmolLM2, with characters that need several tokens: the same tokens of prompts, answers within the bound."""
    pytest.importorskip("xllamacpp", reason="pip install 'pretune[gguf]'")
    questions = ["What is the capital of France?", "Schreibe 3 Sätze über Öl: 12345 + 678 = ?\n\n  你好 🙂"]
    rows = [{"messages": [{"role": "user", "content": question}]} for question in questions]
    model = Reply.load(str(smollm2), {"length": 128, "reply_tokens": 8})
    parity = decoders.export(model, rows, tmp_path / "out", to=to, precision=precision, source=smollm2, base=smollm2)
    assert parity.rows == 2
    assert parity.rendered == 1
    assert parity.agreement > 0.8
