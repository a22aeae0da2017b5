from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data import rows
from pretune.data.ingest.columns import ColumnMapping
from pretune.data.ingest.snapshot import Snapshot
from pretune.data.ingest.sources import columnar
from pretune.data.ingest.sources import read as sources
from pretune.data.ingest.sources.files import File
from pretune.data.ingest.sources.record import Record

REAL = Path(__file__).parents[4].parent / "shared" / "data" / "conversations"
TEXT = st.text("ab \n{[<é", min_size=1, max_size=12).map(str.strip).filter(bool)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3)
CALL = {"type": "function", "function": {"name": "find", "arguments": {"city": "Bern", "days": 2}}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
ASK = [{"role": "user", "content": "q"}]
YES, NO = [{"role": "assistant", "content": "yes"}], [{"role": "assistant", "content": "no"}]


def conversation(system, pairs, thought, *, calls):
    """Messages of a row, and its tools."""
    turns = [{"role": "system", "content": system}] if system else []
    for question, answer in pairs:
        turns.append({"role": "user", "content": question})
        if calls:
            turns.append({"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])})
            turns.append({"role": "tool", "content": "5 °C"})
        turns.append({"role": "assistant", "content": answer} | ({"reasoning": thought} if thought else {}))
    return {"messages": turns} | ({"tools": json.dumps([TOOL])} if calls else {})


def openai(row, *, parts):
    """The row as OpenAI writes it: calls as objects with arguments in JSON, no content beside them."""
    turns = []
    for turn in row["messages"]:
        content = [{"type": "text", "text": turn["content"]}] if parts else turn["content"]
        written = {"role": turn["role"], "content": content or None, "name": None}
        if "tool_calls" in turn:
            function = CALL["function"] | {"arguments": json.dumps(CALL["function"]["arguments"])}
            written |= {"content": None, "tool_calls": [CALL | {"function": function}]}
        turns.append(written | ({"reasoning_content": turn["reasoning"]} if "reasoning" in turn else {}))
    return {"messages": turns} | ({"tools": [TOOL]} if "tools" in row else {})


def sharegpt(row):
    """The row as ShareGPT writes it: calls as messages of their own, thoughts before the answer, tools as JSON."""
    names = {"user": "human", "assistant": "gpt", "tool": "observation", "system": "system"}
    turns = []
    for turn in row["messages"]:
        written = {"from": names[turn["role"]], "value": turn["content"]}
        if "tool_calls" in turn:
            written = {"from": "function_call", "value": json.dumps(CALL["function"])}
        if "reasoning" in turn:
            written["value"] = f"<think>\n{turn['reasoning']}\n</think>\n\n{turn['content']}"
        turns.append(written)
    tools = json.dumps([TOOL["function"]]) if "tools" in row else "[]"
    return {"conversations": turns, "tools": tools}


def alpaca(row):
    """A row without tools as Alpaca writes it: the last turn in columns, the others as pairs."""
    said = [turn["content"] for turn in row["messages"]]
    system = said.pop(0) if row["messages"][0]["role"] == "system" else ""
    pairs = [[question, answer] for question, answer in zip(said[::2], said[1::2], strict=True)]
    question, answer = pairs.pop()
    return {"instruction": question, "input": "", "output": answer, "system": system, "history": pairs}


@given(st.none() | TEXT, PAIRS, st.none() | TEXT, st.booleans())
def test_a_conversation_is_the_same_row_in_each_layout(read, system, pairs, thought, calls):
    """Nothing is set in params.yaml; a table with the columns of all layouts is read as well."""
    row = conversation(system, pairs, thought, calls=calls)
    written = [openai(row, parts=False), openai(row, parts=True), sharegpt(row)]
    if not calls and not thought:
        written.append(alpaca(row))
    columns = {name for values in written for name in values}
    written += [dict.fromkeys(columns) | values for values in written]
    written += [{name: value if isinstance(value, str | None) else json.dumps(value) for name, value in values.items()}
                for values in written]  # fmt: skip
    assert read(*written) == [row] * len(written)


def test_calls_of_a_parquet_file_have_their_own_arguments_only(read, tmp_path):
    """Arrow fills each call with the arguments of all others, and each schema with their properties, as null."""
    functions = [{"name": "find", "arguments": {"city": "Bern"}}, {"name": "wait", "arguments": {"days": 2}}]
    schemas = [{"name": "find", "parameters": {"properties": {"city": {"type": "string"}}}},
               {"name": "wait", "parameters": {"properties": {"days": {"type": "number", "minimum": 0}}}}]  # fmt: skip
    turns = [{"role": "assistant", "content": None, "tool_calls": [{"function": call}]} for call in functions]
    written = {"messages": [*ASK, *turns, *YES], "tools": schemas}
    pq.write_table(pa.Table.from_pylist([written]), tmp_path / "a.parquet")
    [record] = columnar.parquet(File("a.parquet", lambda: (tmp_path / "a.parquet").open("rb")))
    assert read(record.values) == read(written)
    assert "null" not in str(read(record.values))


@pytest.mark.parametrize(
    "values",
    [
        {"messages": ASK, "chosen": YES, "rejected": NO},
        {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "yes"},
         "rejected": {"from": "gpt", "value": "no"}},
        {"prompt": "q", "chosen": "yes", "rejected": "no"},
        {"question": "q", "chosen": "yes", "rejected": "no"},
        {"prompt": ASK, "chosen": YES, "rejected": NO},
        {"instruction": "q", "input": "", "chosen": "yes", "rejected": "no"},
        {"chosen": ASK + YES, "rejected": ASK + NO},
        {"chosen": json.dumps(ASK + YES), "rejected": json.dumps(ASK + NO)},
        {"prompt": "q", "chosen": ASK + YES, "rejected": ASK + NO, "messages": ASK + YES},
        {"chosen": "\n\nHuman: q\n\nAssistant: yes", "rejected": "\n\nHuman: q\n\nAssistant: no"},
    ],
)  # fmt: skip
def test_a_preference_is_the_same_row_in_each_layout(read, values):
    """What both conversations begin with is the prompt."""
    assert read(values) == {"messages": ASK, "chosen": YES, "rejected": NO}


@pytest.mark.parametrize(
    ("values", "row"),
    [
        ({"prompt": "q", "completion": "yes", "label": False}, {"messages": ASK + YES, "desirable": False}),
        ({"prompt": ASK, "completion": YES, "label": "True"}, {"messages": ASK + YES, "desirable": True}),
        ({"messages": ASK + YES, "label": True}, {"messages": ASK + YES, "desirable": True}),
        ({"messages": ASK + YES, "label": 1}, {"messages": ASK + YES, "label": "1"}),  # a class
        ({"messages": ASK + YES, "label": "spam"}, {"messages": ASK + YES, "label": "spam"}),
        ({"messages": ASK, "label": True}, "desirable: there is no answer that could be"),
        ({"text": "t", "label": True}, {"text": "t", "label": "true"}),
        ({"question": "q", "answer": "yes"}, {"messages": ASK + YES}),
        ({"prompt": "q", "solution": "yes"}, {"messages": ASK, "target": "yes"}),
        ({"messages": ASK, "ground_truth": 4}, {"messages": ASK, "target": "4"}),
        ({"prompt": "q", "completion": "yes", "solution": "no"}, {"messages": ASK + YES}),
        ({"instruction": "q", "output": "yes", "text": "q yes"}, {"messages": ASK + YES}),  # text tells it again
        ({"prompt": "q"}, "no text: the columns are prompt"),
        ({"instruction": "q", "output": None}, "messages: nothing for assistant: output: empty"),
    ],
)
def test_what_stands_beside_a_conversation(read, values, row):
    """A label is a verdict if it is true or false; a reference belongs to a prompt that nobody answered."""
    assert read(values) == row


def test_a_mapping_comes_before_what_is_recognised(read):
    """Columns of the user's choice stay; one that is none of a conversation adds to it."""
    values = {"instruction": "q", "output": "yes", "label": True, "topic": "t"}
    columns = {"text": "instruction", "target": "output"}
    assert read(values, columns=columns) == {"text": "q", "target": "yes", "label": "true"}
    assert read(values, columns={"group": "topic"}) == {"messages": ASK + YES, "desirable": True, "group": "t"}
    assert read(values, columns={"label": "label"}) == {"messages": ASK + YES, "label": "true"}
    assert read(values | {"label": 1}, columns={"desirable": "label"}) == {"messages": ASK + YES, "desirable": True}
    assert read(values, columns={"messages": None}).startswith("no text")


@pytest.mark.parametrize(
    ("turn", "read_as"),
    [
        ({"role": "developer", "content": " x "}, {"role": "developer", "content": "x"}),
        ({"role": "assistant", "content": "a", "weight": 0}, {"role": "assistant", "content": "a", "weight": 0.0}),
        ({"role": "function", "name": "f", "content": {"a": 1}}, {"role": "tool", "name": "f", "content": '{"a": 1}'}),
        ({"role": "tool", "content": "5", "tool_call_id": "1"}, {"role": "tool", "content": "5", "tool_call_id": "1"}),
        ({"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}, {"role": "user", "content": "a\nb"}),
        ({"role": "user", "content": "<think>a</think>"}, {"role": "user", "content": "<think>a</think>"}),
        ({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
         {"role": "assistant", "content": "",
          "tool_calls": '[{"type": "function", "function": {"name": "f", "arguments": {}}}]'}),
        ({"from": "function_call", "value": '<think>a</think>[{"name": "f", "arguments": {}}]'},
         {"role": "assistant", "content": "", "reasoning": "a",
          "tool_calls": '[{"type": "function", "function": {"name": "f", "arguments": {}}}]'}),
    ],
)  # fmt: skip
def test_a_message_is_read_completely(read, turn, read_as):
    """Roles, parts, calls of either kind, weights, results of tools."""
    assert read({"messages": [*ASK, turn]})["messages"] == [*ASK, read_as]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"messages": [*ASK, {"role": "boss", "content": "x"}]}, "messages: an unknown role: 'boss'"),
        ({"messages": [*ASK, {"content": "x"}]}, "messages: no list of {role, content} or {from, value}"),
        ({"conversations": [{"from": "gpt", "value": None}]}, "messages: a message without content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages: content that is no text: 5"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}, {"type": "text", "text": "a"}]}]},
         "messages: a part of a message that is no text: image_url"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [CALL]}]},
         "messages: calls of tools by another role than assistant: user"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
         "messages: a call of a tool without its name"),
        ({"messages": [{"from": "function_call", "value": "find it"}]}, "messages: a call of a tool without its name"),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": "x"}}]},
         "messages: arguments of a call that are no object"),
        ({"messages": [{"role": "assistant", "content": "<think>a</think>b", "reasoning": "c"}]},
         "messages: two different thoughts before one answer"),
        ({"messages": [{"role": "assistant", "content": "a", "weight": -1}]}, "messages: a negative weight"),
        ({"messages": ASK, "tools": [{"type": "object"}]}, "tools: no list of functions with names"),
        ({"instruction": "q", "output": "a", "history": [["q"]]}, "messages: a history that is no list of pairs"),
        ({"chosen": ASK + YES, "rejected": ASK + YES}, "chosen and rejected are the same"),
        ({"chosen": "yes", "rejected": "no"}, "chosen and rejected: no prompt"),
        ({"prompt": "q", "chosen": "yes", "rejected": ""}, "rejected: no answer"),
        ({"prompt": "p", "chosen": ASK + YES, "rejected": ASK + NO}, "chosen and rejected: another prompt"),
        ({"prompt": "q", "chosen": ASK + YES, "rejected": ASK}, "rejected: no answer of the assistant"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_makes_a_bad_row(read, values, reason):
    """No message, and no part of one, is left out of a conversation."""
    assert read(values).startswith(reason)


def test_keys_of_messages_that_are_not_read_are_told(ingest_params):
    """The name of a speaker, a weight of a question, ids; in a table too, where a conversation is JSON."""
    turns = [
        {"role": "user", "content": "a", "name": "Ann", "weight": 1, "id": 3},
        {"role": "assistant", "content": "b"},
    ]
    mapping = ColumnMapping(ingest_params())
    for conversations in (turns, json.dumps(turns)):
        values = {"conversations": conversations, "label": True, "source": "s", "text": "a b"}
        told = ["conversations.id", "conversations.name", "conversations.weight", "source", "text"]
        assert list(mapping.unused(Record("f:1", values))) == told


@pytest.mark.skipif(not REAL.is_dir(), reason="the published conversations are not here")
@pytest.mark.parametrize(
    ("file", "count", "columns"),
    [
        ("alpaca_en_demo.json", 999, {"messages"}),
        ("dpo_en_demo.json", 300, {"messages chosen rejected"}),
        ("glaive_toolcall_en_demo.json", 300, {"messages", "messages tools"}),
    ],
)
def test_published_conversations_are_read_without_settings(ingest_params, tmp_path, file, count, columns):
    """Every row is kept or repeats another; every turn, call and input of the file is in the rows."""
    params = ingest_params(source=str(REAL / file), format="auto", labels={}, allow=["outside"])
    params = params.model_copy(update={"clean": params.clean.model_copy(update={"duplicates": "keep"})})
    counts = Snapshot(tmp_path / "raw", params).write(sources.read(params, Path))
    assert (counts["read"], counts["rows"], counts["labelled"]) == (count, count, count)
    assert (set(counts["columns"]), counts["left_out"]) == (columns, {})
    written = [turn for row in rows.iterate(tmp_path / "raw" / "rows.parquet") for name in rows.CONVERSATIONS
               for turn in row.get(name, [])]  # fmt: skip
    records = json.loads((REAL / file).read_text(encoding="utf-8"))
    turns = [turn for record in records for turn in record.get("conversations", [])]
    alone = sum(isinstance(record.get(name), dict) for record in records for name in ("chosen", "rejected"))
    assert len(written) == (len(turns) + alone if turns else 2 * count)
    assert sum("tool_calls" in turn for turn in written) == sum(turn["from"] == "function_call" for turn in turns)
    inputs = [record["input"].strip() for record in records if record.get("input", "").strip()]
    assert sum(any(turn["content"].endswith(f"\n{text}") for turn in written) for text in set(inputs)) == len(
        set(inputs)
    )
