"""Write examples/data/preferences.jsonl: pairs of answers to the questions of instructions.jsonl.

    python examples/data/preferences.py > examples/data/preferences.jsonl

The chosen answer is the right one. The rejected one is, in turns, the answer to another question that begins with the
same words, so that it is wrong but of the right kind; and the right one, but hesitant. No draw is random.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent / "instructions.jsonl"
WORDS = 3  # at the beginning that questions of one kind share
HESITANT = "I am not sure, but perhaps {}"


def main() -> None:
    """One row for each question that has another one of its kind with another answer."""
    turns = [json.loads(line)["messages"] for line in SOURCE.read_text(encoding="utf-8").splitlines()]
    kinds: dict[str, list[list[Any]]] = {}
    for conversation in turns:
        kinds.setdefault(" ".join(conversation[0]["content"].split()[:WORDS]), []).append(conversation)
    for conversations in kinds.values():
        for number, (prompt, answer) in enumerate(conversations):
            others = [other[1] for other in conversations[number + 1 :] + conversations[:number]]
            wrong = next((other for other in others if other["content"] != answer["content"]), None)
            if wrong:
                rejected = wrong if number % 2 else answer | {"content": HESITANT.format(answer["content"])}
                row = {"messages": [prompt], "chosen": [answer], "rejected": [rejected]}
                print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
