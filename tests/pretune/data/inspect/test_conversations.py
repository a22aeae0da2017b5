from __future__ import annotations

import pytest

from pretune.data.inspect import conversations
from pretune.errors import DataError

ALPACA = {"instruction": "q", "input": "", "output": "a"}
SHAREGPT = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "source": "x"}
PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
VERDICT = {"prompt": "q", "completion": "a", "label": True}
REFERENCE = {"prompt": "q", "solution": "4"}
GSM8K = {"question": "q", "answer": "a #### 4"}
NEEDED = {
    "instruction": ("messages",), "seq2seq": ("text", "target"), "dpo": ("messages", "chosen", "rejected"),
    "orpo": ("messages", "chosen", "rejected"), "kto": ("messages", "desirable"), "grpo": ("messages",),
}  # fmt: skip


@pytest.mark.parametrize(
    ("records", "asked", "objective"),
    [
        ([ALPACA, SHAREGPT, {"text": "t"}], None, "instruction"),
        ([PAIR], None, "dpo"),
        ([PAIR], "orpo", "orpo"),
        ([VERDICT], None, "kto"),
        ([VERDICT], "instruction", "instruction"),
        ([VERDICT, ALPACA], None, "instruction"),  # the label is not in all rows
        ([REFERENCE], None, "grpo"),
        ([ALPACA], "grpo", "grpo"),
        ([GSM8K], None, "instruction"),
        ([GSM8K], "grpo", "grpo"),
        ([{"question": "q", "chosen": "a", "rejected": "b"}], None, "dpo"),
        ([GSM8K | {"context": "t"}], None, None),  # as in SQuAD
        ([GSM8K | {"answer": "true"}], None, None),  # as in BoolQ
        ([GSM8K | {"answer": 2}], None, None),  # as in MMLU
        ([ALPACA], "seq2seq", None),
        ([ALPACA, {"text": "t"}], None, None),  # no more than half of the rows
    ],
)
def test_the_objective_of_conversations_follows_from_their_rows(records, asked, objective):
    """Without settings, as long as the user does not ask for another one; an objective has to exist."""
    found = conversations.find(records, {}, asked, NEEDED)
    assert (found and found.objective, found and found.columns) == (objective, objective and {})


def test_what_an_older_table_of_objectives_cannot_learn_is_told():
    """Verdicts are then conversations; preferences are not taken for answers."""
    needed = {"instruction": NEEDED["instruction"]}
    assert conversations.find([VERDICT], {}, None, needed).objective == "instruction"
    for asked in (None, "instruction"):
        with pytest.raises(DataError, match="chosen, messages, rejected"):
            conversations.find([PAIR], {}, asked, needed)


def test_recognised_layouts_are_shown_with_the_columns_that_they_use():
    """The most frequent first; a mapping of texts or answers turns recognition off, another one does not."""
    found = conversations.find([ALPACA, SHAREGPT, SHAREGPT], {"group": "source"}, None, NEEDED)
    assert [line for line, _ in found.recognised] == ["messages: conversations", "messages: instruction, output"]
    assert (found.used, found.columns) == (["instruction", "output", "conversations"], {"group": "source"})
    assert conversations.find([ALPACA], {"text": "instruction"}, None, NEEDED) is None
