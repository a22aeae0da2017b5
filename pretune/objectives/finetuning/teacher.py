"""What a teacher holds likely at each target of each sample: computed once, kept in a file by the content of samples.

A row may become several samples, or none, and the same sample may come of several rows: so the key is the sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from pretune.data import tokenizer
from pretune.data.loading.varlen import Packed, pack
from pretune.errors import DataError
from pretune.models import build, heads, weights
from pretune.objectives.conversations import Sample
from pretune.objectives.pretraining.causal_lm import CausalLM

NEXT = "edit params.yaml (docs/models.md, distillation), then: pretune run"
FILE = "top.safetensors"
TOKENS = 8192  # of a forward pass
KEY_BYTES = 16
NAMES = ("ids", "keys", "log_probs", "offsets")

Arrays = dict[str, npt.NDArray[np.generic]]


class Teacher:
    """The likeliest tokens of a teacher, by sample.

    arrays: `keys` (samples, 16) uint8; `offsets` (samples + 1,) int64, where the targets of each sample begin and end;
    `ids` (targets, top) int32, the likeliest first; `log_probs` (targets, top + 1) float32, in nats, the last that of
    all other tokens together.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self._places = {key.tobytes(): place for place, key in enumerate(arrays["keys"])}

    @classmethod
    def ask(
        cls,
        model: PreTrainedModel,
        samples: Iterable[Sample],
        top: int,
        vocabulary: int,
        told: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Ask a model that is not in training, at each target of each sample; equal samples once.

        top: as many tokens as there are, at most. vocabulary: the tokens of the tokenizer, which a model may exceed.
        told: is called with the targets that are done, and all of them.
        """
        found = {_key(sample): sample for sample in samples}
        keys = np.frombuffer(b"".join(found), dtype=np.uint8).reshape(-1, KEY_BYTES)
        counts = [np.count_nonzero(sample.weights) for sample in found.values()]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        top = min(top, vocabulary)
        ids, log_probs = np.zeros((offsets[-1], top), np.int32), np.zeros((offsets[-1], top + 1), np.float32)
        done = 0
        with torch.no_grad(), heads.packed_attention(model):
            for places, batch in _batches(list(found.values())):
                packed, positions = _packed(batch)
                answer = heads.token_top(model, packed.to(model.device), positions.to(model.device), top, vocabulary)
                targets = np.concatenate([np.arange(offsets[place], offsets[place + 1]) for place in places])
                ids[targets], log_probs[targets] = (values.cpu().numpy() for values in answer)
                done += len(targets)
                if told:
                    told(done, len(ids))
        return cls({"keys": keys, "offsets": offsets, "ids": ids, "log_probs": log_probs})

    def save(self, folder: Path) -> None:
        """Write FILE to the folder."""
        save_file({name: np.ascontiguousarray(array) for name, array in self.arrays.items()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote. DataError if it is missing, damaged, or not whole."""
        path = folder / FILE
        try:
            arrays: Arrays = load_file(path)
        except (OSError, SafetensorError) as error:
            raise _unusable(f"{path} cannot be read ({error})") from None
        if sorted(arrays) != sorted(NAMES) or not _fits(arrays):
            raise _unusable(f"{path} is not whole")
        return cls(arrays)

    def figures(self) -> dict[str, float]:
        """Samples and targets that were asked about, and the mean probability that lies beyond the likeliest tokens."""
        keys, log_probs = self.arrays["keys"], self.arrays["log_probs"]
        rest = float(np.exp(log_probs[:, -1], dtype=np.float64).mean())
        return {"samples": len(keys), "targets": len(log_probs), "probability_beyond_top": rest}

    def places(self, samples: Sequence[Sample]) -> npt.NDArray[np.int64]:
        """The targets of each sample, from and to: (samples, 2). DataError if the teacher was not asked about one."""
        found = [self._places.get(_key(sample), -1) for sample in samples]
        if unknown := sum(place < 0 for place in found):
            raise _unusable(f"data/teacher lacks {unknown} of {len(samples)} samples: it was made from others")
        offsets = self.arrays["offsets"]
        places = np.array(found, dtype=np.int64).reshape(-1)
        return np.stack([offsets[places], offsets[places + 1]], axis=1)

    def at(self, targets: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """What it answers at these targets: ids (targets, top) int64, log-probabilities (targets, top + 1) float32."""
        ids, log_probs = (self.arrays[name][targets] for name in ("ids", "log_probs"))
        return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(log_probs)


def problems(source: Path | str, inputs: Any, length: int) -> list[str]:
    """Why the checkpoint `source` cannot teach a student with the tokenizer `inputs` on `length` tokens, one line each.

    Raises DataError if there is no checkpoint.
    """
    config, errors = build.configuration(source), []
    if config.model_type not in CausalLM.families():
        errors.append(f"teacher.init: {source} holds a {config.model_type}, which does not predict the next token")
    if length > (longest := getattr(config, "max_position_embeddings", length)):
        errors.append(f"finetune.sequence_length: {length}, but the teacher reads {longest} tokens at most")
    own, other = inputs.get_vocab(), _vocabulary(source)
    if differing := sum(other.get(token) != place for token, place in own.items()):
        errors.append(
            f"prepare.tokenizer: {differing} of {len(own)} tokens are not those of the teacher, whose answers are "
            f"about its own; write prepare.tokenizer: {source}, or the folder with its tokenizer"
        )
    elif len(own) > config.vocab_size:
        errors.append(f"teacher.init: {source} has {config.vocab_size} tokens, its tokenizer {len(own)}")
    return errors


def _vocabulary(source: Path | str) -> dict[str, int]:
    """The tokens of a checkpoint's tokenizer; none without tokenizer.json."""
    paths = [weights.find(build.location(source), name) for name in ("tokenizer.json", "tokenizer_config.json")]
    return dict(tokenizer.load(paths[0].parent).get_vocab()) if paths[0] else {}


def _key(sample: Sample) -> bytes:
    """The hash of a sample's tokens and of which of them are targets."""
    digest = hashlib.blake2b(sample.ids.astype("<i8").tobytes(), digest_size=KEY_BYTES)
    digest.update((sample.weights != 0).tobytes())
    return digest.digest()


def _batches(samples: list[Sample]) -> Iterable[tuple[list[int], list[Sample]]]:
    """Places and samples, of similar length together, at most TOKENS if more than one."""
    order = sorted(range(len(samples)), key=lambda place: len(samples[place].ids))
    places: list[int] = []
    for place in order:
        if places and (len(places) + 1) * len(samples[place].ids) > TOKENS:
            yield places, [samples[each] for each in places]
            places = []
        places.append(place)
    if places:
        yield places, [samples[each] for each in places]


def _packed(samples: list[Sample]) -> tuple[Packed, Tensor]:
    """The samples one after the other, and the positions at which their targets are predicted."""
    targets = np.flatnonzero(np.concatenate([sample.weights for sample in samples]))
    lengths = np.array([len(sample.ids) for sample in samples])
    return pack(np.concatenate([sample.ids for sample in samples]), lengths), torch.from_numpy(targets - 1)


def _fits(arrays: Arrays) -> bool:
    """Whether the shapes go together."""
    samples, targets = len(arrays["keys"]), len(arrays["ids"])
    shape = (targets, arrays["ids"].shape[-1] + 1)
    offsets = arrays["offsets"]
    return len(offsets) == samples + 1 and offsets[-1] == targets and arrays["log_probs"].shape == shape


def _unusable(problem: str) -> DataError:
    return DataError(problem, "pretune run   (asks the teacher anew)")
