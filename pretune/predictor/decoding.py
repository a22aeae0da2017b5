"""Decoding by a causal language model: many prompts at once by greedy search, or one conversation as it grows.

Prompts are read alone and without padding, then decoded together in the rows of a cache (slots.py); a row whose
sequence has ended goes to the next prompt. So each prompt gets the tokens that it would get alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from .slots import SLOTS, Slots

# Others run in transformers' generate, one by one.
FAMILIES = (
    "gemma", "gemma3_text", "glm4", "gpt2", "llama", "mistral", "olmo2", "olmo3", "phi3", "qwen2", "qwen3", "smollm3",
    "starcoder2",
)  # fmt: skip
MOST = 64  # rows: more are not faster
CACHE = 2**30  # bytes of keys and values on a CPU; on a GPU half of what is free

Choose = Callable[[Tensor, Sequence[int], Sequence[int]], list[int]]


def likeliest(logits: Tensor, prompts: Sequence[int], places: Sequence[int]) -> list[int]:  # noqa: ARG001 - one Choose
    """The likeliest token of each row. logits: (rows, vocabulary)."""
    return [int(token) for token in logits.argmax(dim=-1)]


def sampler(temperature: float, seed: int) -> Choose:
    """Draws tokens by the probabilities at this temperature; the likeliest ones at 0."""
    generator = torch.Generator().manual_seed(seed)

    def sample(logits: Tensor, prompts: Sequence[int], places: Sequence[int]) -> list[int]:  # noqa: ARG001 - a Choose
        probabilities = torch.softmax(logits.float().cpu() / temperature, dim=-1)
        return [int(token) for token in torch.multinomial(probabilities, 1, generator=generator)]

    return sample if temperature else likeliest


def has_slots(model: Any) -> bool:
    """Whether the model is decoded in slots: by its family, and if no long sequence turns the positions of others."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
    return model.config.model_type in FAMILIES and not kinds & {"dynamic", "longrope"}


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    stop: Collection[int],
    choose: Choose = likeliest,
) -> list[list[int]]:
    """The tokens that follow each prompt, with the one of `stop` that ends them.

    limits: at most so many tokens for each prompt, at least 1.
    choose: the next tokens from logits (rows, vocabulary), the prompts' numbers and how many tokens each has already.
    Models that are not in FAMILIES take the likeliest one whatever it says.
    """
    with torch.inference_mode():
        if not has_slots(model):
            return [_alone(model, ids, limit, stop) for ids, limit in zip(prompts, limits, strict=True)]
        tokens: dict[int, list[int]] = {}
        for numbers, rows in _batches([len(ids) + limit for ids, limit in zip(prompts, limits, strict=True)], model):
            tokens |= _Batch(model, prompts, limits, stop, choose, numbers=numbers, rows=rows).run()
        return [tokens[number] for number in range(len(prompts))]


class _Batch:
    """Some of the prompts in decoding, those with these numbers, in so many rows.

    tokens: those generated for each prompt; rows: the number of the prompt in each row of the cache, or None.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        stop: Collection[int],
        choose: Choose,
        *,
        numbers: Sequence[int],
        rows: int,
    ) -> None:
        self.model, self.prompts, self.limits, self.stop, self.choose = model, prompts, limits, stop, choose
        self.tokens: dict[int, list[int]] = {}
        self.waiting = deque(numbers)
        self.slots = Slots(rows)
        self.rows: list[int | None] = [None] * len(self.slots.lengths)

    def run(self) -> dict[int, list[int]]:
        """Read and decode until all have ended."""
        self._fill()
        while any(prompt is not None for prompt in self.rows):
            self._step()
            self._fill()
            self._shrink()
        return self.tokens

    def _fill(self) -> None:
        """Read prompts into the free rows, and generate the first token of each."""
        for row in range(len(self.rows)):
            while self.rows[row] is None and self.waiting:
                prompt, read = self.waiting.popleft(), DynamicCache()
                logits = prefill(self.model, self.prompts[prompt], read)
                self.tokens[prompt] = self.choose(logits[None], [prompt], [0])
                if not self._ended(prompt):
                    self.slots.insert(row, read)
                    self.rows[row] = prompt

    def _step(self) -> None:
        newest = [0 if prompt is None else self.tokens[prompt][-1] for prompt in self.rows]
        with attention_in_slots(self.model):
            logits = step(self.model, self.slots, newest)
        used = {row: prompt for row, prompt in enumerate(self.rows) if prompt is not None}
        places = [len(self.tokens[prompt]) for prompt in used.values()]
        chosen = self.choose(logits[list(used)], list(used.values()), places)
        for (row, prompt), token in zip(used.items(), chosen, strict=True):
            self.slots.lengths[row] += 1
            self.tokens[prompt].append(token)
            if self._ended(prompt):
                self.rows[row], self.slots.lengths[row] = None, 0

    def _ended(self, prompt: int) -> bool:
        return self.tokens[prompt][-1] in self.stop or len(self.tokens[prompt]) == self.limits[prompt]

    def _shrink(self) -> None:
        """Give up free rows once they are half of all."""
        used = [row for row, prompt in enumerate(self.rows) if prompt is not None]
        if used and 2 * len(used) <= len(self.rows) and len(self.rows) > len(Slots(len(used)).lengths):
            self.slots.keep(used)
            kept: list[int | None] = [self.rows[row] for row in used]
            self.rows = kept + [None] * (len(self.slots.lengths) - len(used))


class Session:
    """The decoding of one conversation: what its cache holds already is not read again."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.slots = Slots(1)
        self.ids: list[int] = []  # those in the cache

    def stream(
        self, prompt: Sequence[int], limit: int, stop: Collection[int], choose: Choose = likeliest
    ) -> Generator[int]:
        """The tokens that follow, each as soon as it is there; the one of `stop` that ends them is not among them."""
        if not has_slots(self.model):
            with torch.inference_mode():
                yield from (token for token in _alone(self.model, prompt, limit, stop) if token not in stop)
            return
        (token,) = choose(self._read(list(prompt))[None], [0], [0])
        for number in range(limit):
            if token in stop:
                return
            yield token
            if number + 1 < limit:
                (token,) = choose(self._next(token)[None], [0], [number + 1])

    def _read(self, prompt: list[int]) -> Tensor:
        shared = 0  # tokens; the last one of the prompt is always read, for the logits
        while shared < min(len(self.ids), len(prompt) - 1) and self.ids[shared] == prompt[shared]:
            shared += 1
        self.ids = self.ids[:shared]
        with torch.inference_mode():
            read = self.slots.extract(0, shared, self.model.dtype)
            logits = prefill(self.model, prompt[shared:], read)
            self.slots.insert(0, read)
        self.ids = prompt
        return logits

    def _next(self, token: int) -> Tensor:
        with torch.inference_mode(), attention_in_slots(self.model):
            logits = step(self.model, self.slots, [token] + [0] * (len(self.slots.lengths) - 1))[0]
        self.slots.lengths[0] += 1
        self.ids = [*self.ids, token]
        return logits


def prefill(model: Any, ids: Sequence[int], cache: DynamicCache) -> Tensor:
    """Read the tokens after those in `cache`, which keeps them; the logits of the next one: (vocabulary,)."""
    tokens = torch.tensor([list(ids)], device=model.device)
    logits: Tensor = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    return logits[0, -1]


def step(model: Any, slots: Slots, tokens: Sequence[int]) -> Tensor:
    """Add a token to each row; the logits of the next ones: (rows, vocabulary)."""
    positions = slots.begin(model.device)
    logits: Tensor = model(
        torch.tensor(tokens, device=model.device)[:, None],
        position_ids=positions,
        past_key_values=slots,
        use_cache=True,
        attention_mask=positions.new_empty(1, 1, 1, 1),  # with any 4D mask a model makes none of its own
        slots=slots,
    ).logits
    return logits[:, -1]


@contextmanager
def attention_in_slots(model: Any) -> Iterator[None]:
    """Inside the block the model's attention reads slots."""
    before = model.config._attn_implementation
    model.set_attn_implementation(SLOTS)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _alone(model: Any, prompt: Sequence[int], limit: int, stop: Collection[int]) -> list[int]:
    """The same by transformers' `generate`."""
    ids = torch.tensor([list(prompt)], device=model.device)
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, eos_token_id=list(stop),
        pad_token_id=next(iter(stop), 0), repetition_penalty=1.0,
    )  # fmt: skip
    return [int(token) for token in output[0, len(prompt) :]]


def _batches(lengths: Sequence[int], model: Any) -> Iterator[tuple[list[int], int]]:
    """Numbers of sequences, the shortest first, and the rows in which they are decoded.

    lengths: at most so many tokens each. Those of very different length part where the cache would hold fewer rows.
    """
    capacity = _capacity(model)
    order = deque(sorted(range(len(lengths)), key=lengths.__getitem__))
    while order:
        batch = [order.popleft()]
        while order and (lengths[order[0]] <= 2 * lengths[batch[0]] or MOST * lengths[order[0]] <= capacity):
            batch.append(order.popleft())
        yield batch, max(1, min(MOST, len(batch), capacity // lengths[batch[-1]]))


def _capacity(model: Any) -> int:
    """Tokens that the cache may hold."""
    device = model.device
    free = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else CACHE
    return int(free // token_bytes(model))


def token_bytes(model: Any) -> int:
    """Bytes of the keys and values of a token."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = 4 if model.device.type == "cpu" else model.dtype.itemsize
    return int(2 * config.num_hidden_layers * heads * size * width)
