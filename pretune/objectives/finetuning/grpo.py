"""GRPO (Shao et al. 2024): the model answers each prompt several times, and learns from the answers above their mean.

In its plain form: one step for each set of answers, so that no ratio of probabilities has to be clipped, and no
penalty for leaving the reference model, which most have given up since (Yu et al. 2025; Hu et al. 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel
from typing_extensions import override

from pretune.data.loading import counter_rng
from pretune.data.loading.batch import Movable
from pretune.data.loading.varlen import pack
from pretune.data.rows import Row, last_answer
from pretune.errors import DataError
from pretune.models import heads
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.chat import ChatObjective, ChatSettings
from pretune.objectives.predictions import Texts
from pretune.objectives.requirements import COLUMNS
from pretune.objectives.rewards import Rewards
from pretune.objectives.tokens import TokenBatch
from pretune.predictor import chat, conversation, decoding

DRAW = 4  # key of the random numbers, beside the seed


@dataclass(frozen=True)
class PromptBatch(Movable):
    """samples: (prompts,) int64, numbers of rows. draws: (prompts, completions, reply_tokens) float64 in [0, 1).

    A completion follows from the weights and its draws, so a step repeats to the bit. `longest` is that of the prompts.
    """

    samples: Tensor
    draws: Tensor
    longest: int

    @property
    def count(self) -> int:
        """Completions that the loss is summed over."""
        return self.draws.shape[0] * self.draws.shape[1]

    @property
    def tokens(self) -> int:
        """Tokens at most: how long the completions are is not known before."""
        return self.count * (self.longest + self.draws.shape[2])


class Grpo(ChatObjective):
    """Raises the probability of completions by their advantage; the loss that is shown is the negative reward."""

    columns = COLUMNS["grpo"]
    metrics = ("loss", "reward")

    class Settings(ChatSettings):
        """template: in Jinja, null for the tokenizer's own. reply_tokens: of a completion at most.

        completions: of each prompt. temperature: of the draws. rewards: {name: {weight: …}} (objectives/rewards.py).
        """

        completions: Annotated[int, Field(ge=2)]
        temperature: Annotated[float, Field(gt=0)]
        rewards: Rewards

    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        self.rows, self.context = rows, context
        conversation.set_template(context.inputs, context.settings.template)
        self._reply = chat.Reply(None, context.inputs, self.inference_config(context))
        self.prompts = [row["messages"][: last_answer(row["messages"])] for row in rows]
        self.targets = [_target(row, len(prompt)) for row, prompt in zip(rows, self.prompts, strict=True)]
        self._ids = [self._reply.prompt(row | {"messages": p}) for row, p in zip(rows, self.prompts, strict=True)]
        room = context.length - context.settings.reply_tokens
        if long := sum(len(ids) > room for ids in self._ids):
            raise DataError(
                f"{long} of {len(rows)} prompts are longer than the {room} tokens that finetune.sequence_length "
                f"{context.length} leaves for them beside {context.settings.reply_tokens} of an answer",
                "raise finetune.sequence_length, or leave these rows out; then: pretune run",
            )

    @classmethod
    @override
    def families(cls) -> list[str]:
        """Decoders that are generated from in batches."""
        return sorted(decoding.FAMILIES)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> PromptBatch:
        """These prompts, with the random numbers of their completions."""
        settings = self.context.settings
        shape = (settings.completions, settings.reply_tokens)
        draws = counter_rng.uniform((self.context.seed, DRAW), epochs, samples, shape[0] * shape[1])
        longest = max(len(self._ids[sample]) for sample in samples)
        return PromptBatch(torch.from_numpy(samples), torch.from_numpy(draws.reshape(-1, *shape)), longest)

    @override
    def costliest(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> TokenBatch:
        count, most = self.context.settings.completions, self.context.settings.reply_tokens
        prompts = [self._ids[sample] for sample in samples for _ in range(count)]
        return _learnt(prompts, [[0] * most for _ in prompts], torch.ones(len(prompts)))

    def loss(self, model: PreTrainedModel, batch: PromptBatch | TokenBatch) -> Tensor:
        """The negative sum of the rewards. Its gradient is that of the advantages times the log-probabilities.

        Of each completion the mean over its tokens counts, as in equation 3 of the paper; the advantage is the reward
        less the mean of its group, over the standard deviation.
        """
        if isinstance(batch, TokenBatch):  # of `costliest`
            return heads.token_loss(model, batch.packed, batch.positions, batch.targets, batch.weights)
        samples, count = batch.samples.tolist(), batch.draws.shape[1]
        completions = self._complete(model, batch)
        rewards = self._rewards(samples, completions)
        advantages = rewards - rewards.mean(dim=1, keepdim=True)
        advantages /= rewards.std(dim=1, keepdim=True, correction=0) + 1e-4
        prompts = [self._ids[sample] for sample in samples for _ in range(count)]
        learnt = _learnt(prompts, completions, advantages.flatten()).to(batch.draws.device)
        surrogate = heads.token_loss(model, learnt.packed, learnt.positions, learnt.targets, learnt.weights)
        return surrogate - surrogate.detach() - rewards.sum().to(surrogate.device)

    def score(self, model: PreTrainedModel, batch: PromptBatch) -> dict[str, Tensor]:
        """Sums over the completions, drawn as in training."""
        rewards = self._rewards(batch.samples.tolist(), self._complete(model, batch)).sum()
        return {"loss": -rewards, "reward": rewards}

    def predict(self, model: PreTrainedModel) -> Texts:
        """The likeliest answer to each prompt; the target is the row's own, "" if it has none."""
        reply = chat.Reply(model, self.context.inputs, self.inference_config(self.context))
        answers = reply([row | {"messages": p} for row, p in zip(self.rows, self.prompts, strict=True)])
        return Texts(self.targets, [answer["text"] for answer in answers])

    def _complete(self, model: PreTrainedModel, batch: PromptBatch) -> list[list[int]]:
        """The tokens of each completion, prompt by prompt."""
        count, most = batch.draws.shape[1:]
        draws = batch.draws.flatten(0, 1).cpu()
        prompts = [self._ids[sample] for sample in batch.samples.tolist() for _ in range(count)]

        def draw(logits: Tensor, numbers: Sequence[int], places: Sequence[int]) -> list[int]:
            probabilities = torch.softmax(logits.double().cpu() / self.context.settings.temperature, dim=-1)
            wanted = draws[list(numbers), list(places)][:, None]
            drawn = torch.searchsorted(probabilities.cumsum(dim=-1), wanted, right=True)[:, 0]
            return [int(token) for token in drawn.clamp(max=logits.shape[-1] - 1)]

        training = model.training
        model.eval()
        try:
            with torch.autocast(model.device.type, enabled=False):
                stop = chat.Reply(model, self.context.inputs, self._reply.inference_config).stop
                return decoding.generate(model, prompts, [most] * len(prompts), stop, draw)
        finally:
            model.train(training)

    def _rewards(self, samples: Sequence[int], completions: Sequence[Sequence[int]]) -> Tensor:
        """Of each completion: (prompts, completions) float32."""
        count = len(completions) // len(samples)
        answers = [self._reply.text(completion) for completion in completions]
        targets = [self.targets[sample] for sample in samples for _ in range(count)]
        score = self.context.settings.rewards.score
        rewards = [score(answer, target) for answer, target in zip(answers, targets, strict=True)]
        return torch.tensor(rewards).view(len(samples), count)


def _learnt(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], advantages: Tensor) -> TokenBatch:
    """Prompts with their completions, packed. A token weighs the advantage over the length of its completion."""
    sizes = np.array([len(completion) for completion in completions])
    lengths = sizes + np.array([len(prompt) for prompt in prompts])
    ids = np.concatenate([np.array([*prompt, *c]) for prompt, c in zip(prompts, completions, strict=True)])
    ends = np.cumsum(lengths)
    places = np.concatenate([np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)])
    weights = advantages.repeat_interleave(torch.from_numpy(sizes)) / torch.from_numpy(np.repeat(sizes, sizes))
    positions, targets = torch.from_numpy(places - 1), torch.from_numpy(ids[places])
    return TokenBatch(pack(ids, lengths), positions, targets, weights.float())


def _target(row: Row, answer: int) -> str:
    """What the rewards compare an answer with: `target`, or the row's own last answer."""
    if "target" in row:
        return str(row["target"])
    return str(row["messages"][answer]["content"]) if answer < len(row["messages"]) else ""
