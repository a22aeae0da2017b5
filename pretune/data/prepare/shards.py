"""From texts to token shards, a batch at a time and in order, so that a stopped run continues."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pretune.data.loading.corpus import Tokens, no_tokens_error, save
from pretune.data.workers import by_length, in_order

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHARD = 2**24  # tokens; a shard ends with the batch that reaches this number
BATCH = 2**19  # characters that are tokenized together


class Encoder:
    """Tokenizes texts with the special tokens of the tokenizer and an end token.

    Texts are neither truncated nor padded, whatever tokenizer.json or earlier calls of the tokenizer say.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._backend = copy.deepcopy(tokenizer.backend_tokenizer)
        self._backend.no_truncation()
        self._backend.no_padding()
        self._dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
        self._end = self._missing_end(tokenizer)

    def __call__(self, texts: list[str]) -> tuple[Tokens, npt.NDArray[np.int64]]:
        """All tokens one after the other, (tokens,) uint16 or uint32, and the number of each text: (texts,)."""
        sequences = [[*encoding.ids, *self._end] for encoding in self._backend.encode_batch_fast(texts)]
        sizes = np.array([len(ids) for ids in sequences], dtype=np.int64)
        return np.concatenate([np.array(ids, dtype=self._dtype) for ids in sequences]), sizes

    def _missing_end(self, tokenizer: PreTrainedTokenizerFast) -> list[int]:
        """The end token to append: none if the tokenizer has none or adds one itself."""
        end = tokenizer.eos_token_id
        last = self._backend.encode("a").ids[-1:]
        return [] if end is None or last in ([end], [tokenizer.sep_token_id]) else [int(end)]


class Shards:
    """Writes texts as `tokens-N.npy`, (tokens,) uint16 or uint32, and `ends-N.npy`, (documents,) int64.

    `ends` holds the end of each document in `tokens`. The shards are a function of the texts alone, and not of the
    number of workers or of interruptions. Started again, it continues after the last complete shard. With an address of
    storage, tokens go there, shard by shard.
    """

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast, storage: str = "") -> None:
        self._folder, self._encoder, self._storage = folder, Encoder(tokenizer), storage
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, texts: Iterable[str]) -> int:
        """Write all texts and return the number of tokens. Raises DataError for no tokens at all."""
        ends = [np.load(path) for path in sorted(self._folder.glob("ends-*.npy"))]
        total, number = sum(int(part[-1]) for part in ends), len(ends)
        remaining = islice(texts, sum(map(len, ends)), None)
        shard: list[tuple[Tokens, npt.NDArray[np.int64]]] = []
        size = 0
        for tokens, sizes in in_order(self._encoder, by_length(remaining, BATCH)):
            shard.append((tokens, sizes))
            size += len(tokens)
            if size >= SHARD:
                self._save(number, shard)
                total, number, shard, size = total + size, number + 1, [], 0
        if size:
            self._save(number, shard)
        if not total + size:
            raise no_tokens_error()
        return total + size

    def _save(self, number: int, shard: list[tuple[Tokens, npt.NDArray[np.int64]]]) -> None:
        tokens, sizes = (np.concatenate(parts) for parts in zip(*shard, strict=True))
        save(self._folder, number, tokens, np.cumsum(sizes), self._storage)
