"""A decoder as lm-evaluation-harness asks it: log-likelihoods of continuations and of texts, generated answers.

Texts become the tokens that they are in training: with the special tokens that the tokenizer puts in front of a text,
without those that it puts behind. Scores are those of the harness's own adapter HFLM, which the tests compare.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from transformers import PreTrainedModel
from typing_extensions import override

from pretune.errors import DataError
from pretune.predictor import chat, conversation, decoding

ROWS = 64  # of a forward pass, at most
LOGITS = 2**26  # of a forward pass, at most: 256 MB
NEW_TOKENS = 256  # of a generated answer, where the task does not say
Request = tuple[Any, list[int], list[int]]  # texts, the tokens of the context, those of the continuation


class Decoder(TemplateLM):  # type: ignore[misc]
    """A causal language model with its tokenizer. cut: how many requests were longer than the model reads."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any, *, chats: bool) -> None:
        """chats: it was trained to answer conversations: it also stops where the chat template ends an answer."""
        super().__init__()
        self.model, self.tokenizer, self.cut = model, tokenizer, 0
        self._device = model.device
        marked, plain = (self._ids("a", add_special_tokens=special) for special in (True, False))
        self.before = marked[: marked.index(plain[0])]  # the special tokens before a text
        positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
        self.max_length = int(min(positions, tokenizer.model_max_length))
        named = model.generation_config.eos_token_id if model.can_generate() else None
        template = conversation.stop(tokenizer) if chats else []
        self.stop = {self.eot_token_id, *template, *([named] if isinstance(named, int) else named or [])}

    @property
    @override
    def eot_token_id(self) -> int:
        return chat.end_of_turn(self.tokenizer)

    @property
    @override
    def prefix_token_id(self) -> int:
        """The token before a text without context."""
        beginning = [*self.before, self.tokenizer.bos_token_id]
        return self.eot_token_id if beginning[0] is None else int(beginning[0])

    @property
    @override
    def tokenizer_name(self) -> str:
        return ""  # of a cache of prompts, which is not used

    @override
    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        ids = self._ids(string, add_special_tokens=False)
        begun = ids[: len(self.before)] == self.before  # as chat templates begin
        return ids if add_special_tokens is False or begun else self.before + ids

    @override
    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt as in training; an answer that is begun already (`gen_prefix`) is left open."""
        begun = "" if add_generation_prompt else chat_history[-1]["content"]
        messages = chat_history if add_generation_prompt else chat_history[:-1]
        return conversation.render(self.tokenizer, messages, add_generation_prompt=True) + begun

    @override
    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        """The log-likelihood of each text, in windows of max_length tokens.

        The token before a text is given; HFLM predicts it once more where the tokenizer writes it.
        """
        texts = [self._windows(*request.args) for request in requests]
        scored = iter(self._loglikelihood_tokens([window for windows in texts for window in windows]))
        return [sum(next(scored)[0] for _ in windows) for windows in texts]

    def _windows(self, text: str) -> list[Request]:
        ids = self.tok_encode(text, add_special_tokens=False)
        windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
        return [("", *make_disjoint_window(window)) for window in windows]

    @override
    def _loglikelihood_tokens(self, requests: Sequence[Request], **_: Any) -> list[tuple[float, bool]]:
        """(log-likelihood of the continuation, whether it is the likeliest) of each request.

        Continuations of one token after the same context share a row.
        """
        same: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, (_texts, context, continuation) in enumerate(requests):
            self.cut += len(context) + len(continuation) > self.max_length + 1
            same[tuple((context + continuation)[-self.max_length - 1 : -1])].append(number)
        found: dict[int, tuple[float, bool]] = {}
        with torch.inference_mode():
            for inputs in self._batches(sorted(same, key=lambda ids: (len(ids), ids))):
                for ids, logits in zip(inputs, self._logits(inputs), strict=True):
                    found |= {number: _score(logits[: len(ids)], requests[number][2]) for number in same[ids]}
        return [found[number] for number in range(len(requests))]

    @override
    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """The likeliest answers, each up to where the task ends it."""
        prompts, limits, ends = [], [], []
        for request in requests:
            text, given = request.args
            options = normalize_gen_kwargs(given, NEW_TOKENS)
            if options["do_sample"] or options.get("num_beams", 1) > 1:
                raise DataError(
                    f"{request.task_name}: generation_kwargs ask for other answers than the likeliest tokens",
                    "correct the file, or choose another benchmark",
                )
            room, ids = self.max_length - options["max_gen_toks"], self.tok_encode(text)
            if room < 1:
                raise DataError(
                    f"{request.task_name} generates up to {options['max_gen_toks']} tokens; the model reads "
                    f"{self.max_length} with the question",
                    "lower max_gen_toks in the task's generation_kwargs, or choose another benchmark",
                )
            self.cut += len(ids) > room
            prompts.append(ids[-room:])
            limits.append(options["max_gen_toks"])
            ends.append(handle_stop_sequences(list(options["until"]), self.tokenizer.decode([self.eot_token_id])))
        answers = decoding.generate(self.model, prompts, limits, self.stop, self._until(ends))
        return [self._text(ids, end) for ids, end in zip(answers, ends, strict=True)]

    def _until(self, ends: Sequence[Sequence[str]]) -> decoding.Choose:
        """Ends an answer as soon as it holds a text that ends it; `generate_until` cuts it there."""
        written: dict[int, list[int]] = defaultdict(list)

        def choose(logits: Tensor, prompts: Sequence[int], places: Sequence[int]) -> list[int]:
            tokens = decoding.likeliest(logits, prompts, places)
            for row, prompt in enumerate(prompts):
                text = self.tokenizer.decode(written[prompt], skip_special_tokens=True)
                if any(end and end in text for end in ends[prompt]):
                    tokens[row] = self.eot_token_id
                written[prompt].append(tokens[row])
            return tokens

        return choose

    def _text(self, ids: list[int], ends: Sequence[str]) -> str:
        ids = ids[:-1] if ids[-1] in self.stop else ids
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return str(postprocess_generated_text(text, list(ends), None))

    def _ids(self, text: str, **options: Any) -> list[int]:
        return list(self.tokenizer(text, verbose=False, **options)["input_ids"])

    def _batches(self, inputs: Sequence[tuple[int, ...]]) -> Iterator[Sequence[tuple[int, ...]]]:
        """Sequences of similar length; inputs: sorted by length."""
        start = 0
        while start < len(inputs):
            rows = 1
            while (
                start + rows < len(inputs)
                and rows < ROWS
                and (rows + 1) * len(inputs[start + rows]) * self.model.config.vocab_size <= LOGITS
            ):
                rows += 1
            yield inputs[start : start + rows]
            start += rows

    def _logits(self, inputs: Sequence[tuple[int, ...]]) -> Tensor:
        """(rows, longest, vocabulary). Padding is behind, where no token of a causal model sees it."""
        longest = max(map(len, inputs))
        ids = torch.zeros(len(inputs), longest, dtype=torch.long)
        for row, tokens in enumerate(inputs):
            ids[row, : len(tokens)] = torch.tensor(tokens)
        logits: Tensor = self.model(input_ids=ids.to(self.model.device), use_cache=False).logits
        return logits


def _score(logits: Tensor, continuation: list[int]) -> tuple[float, bool]:
    """logits: (tokens, vocabulary) of a sequence that lacks the continuation's last token."""
    target = torch.tensor(continuation, device=logits.device)
    chosen = logits[-len(continuation) :].float().log_softmax(dim=-1)
    likely = chosen.gather(1, target[:, None]).sum()
    return float(likely), bool((chosen.argmax(dim=-1) == target).all())
