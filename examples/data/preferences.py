"""Write pairs of answers to the questions of instructions.jsonl, of which people prefer one.

    python examples/data/preferences.py train > examples/data/preferences.jsonl
    python examples/data/preferences.py test > examples/data/preferences-test.jsonl

Each question has three answers of the same content, which readers rank: the bare answer before a sentence that only
leads up to it, and that before doubts. Of every two neighbours in the ranking there is a pair (Ouyang et al. 2022).
So the chosen answers are half bare, half wordy: finetuning on them imitates both, and only the pairs tell which is
better. Every fifth question is for the test, with its best answer against the second. No draw is random.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent / "instructions.jsonl"
RANKING = ("{}", "That is a good question. The answer is {}", "I am not sure, but perhaps {}")  # best first
EVERY = 5  # one question in so many is for the test


def main() -> None:
    """The pairs of the questions for training or for the test, as the argument says."""
    test = sys.argv[1:] == ["test"]
    for number, line in enumerate(SOURCE.read_text(encoding="utf-8").splitlines()):
        if (number % EVERY == 0) == test:
            prompt, answer = json.loads(line)["messages"]
            for row in list(pairs(prompt, answer))[: 1 if test else None]:
                print(json.dumps(row, ensure_ascii=False))


def pairs(prompt: dict[str, Any], answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Neighbours in the ranking, the best ones first; the better one is chosen."""
    ranked = [answer | {"content": form.format(answer["content"])} for form in RANKING]
    for chosen, rejected in pairwise(ranked):
        yield {"messages": [prompt], "chosen": [chosen], "rejected": [rejected]}


if __name__ == "__main__":
    main()
