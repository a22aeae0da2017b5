from __future__ import annotations

import json

import pytest

from pretune.predictor.conversation import ConversationError, render

ASK = {"role": "user", "content": "salt?"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": json.dumps([{"id": "call_salt", "function": {"name": "look", "arguments": {"for": "salt"}}}]),
}
RESULT = {"role": "tool", "content": "white", "tool_call_id": "call_salt"}
NAMELESS = {"role": "tool", "content": "white"}
THOUGHT = {"role": "assistant", "content": "white", "reasoning": "it is a crystal"}
EACH = "{% for m in messages %}"
CALLS = EACH + "{% for c in m.tool_calls or [] %}"


class Template:
    """What `render` needs of a tokenizer."""

    def __init__(self, chat_template):
        self.chat_template = chat_template
        self.special_tokens_map = {"bos_token": "<s>", "eos_token": "</s>"}

    def get_chat_template(self, tools):
        return self.chat_template


@pytest.mark.parametrize(
    ("template", "messages", "text"),
    [
        (None, [ASK], "<s>user: salt?</s>"),
        (EACH + "{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}", [ASK], "salt?"),  # parts only
        (
            EACH + "{{ raise_exception('no system') if m.role == 'system' else m.content }}{% endfor %}",
            [{"role": "system", "content": "short"}, ASK],
            "short\n\nsalt?",
        ),
        (
            EACH + "<{{ m.role }}>{{ m.content }}{% endfor %}",
            [{"role": "system", "content": "short"}, {"role": "developer", "content": "true"}, ASK],
            "<system>short\n\ntrue<user>salt?",
        ),
        (
            "{# developer #}" + EACH + "<{{ m.role }}>{{ m.content }}{% endfor %}",
            [{"role": "system", "content": "short"}, {"role": "developer", "content": "true"}, ASK],
            "<system>short<developer>true<user>salt?",
        ),
        (
            CALLS + "{{ c.function.name + c.function.arguments }}{% endfor %}{{ m.content }}{% endfor %}",
            [ASK, CALL, RESULT],
            'salt?look{"for": "salt"}white',
        ),
        (
            CALLS + "{{ c.function.name }}{{ c.function.arguments.items() }}{% endfor %}{{ m.content }}{% endfor %}",
            [ASK, CALL, RESULT],
            "salt?lookdict_items([('for', 'salt')])white",
        ),
        (
            EACH + "{{ m.tool_calls[0].function | tojson if m.content is none else m.content }}{% endfor %}",
            [ASK, CALL, RESULT],
            'salt?{"name": "look", "arguments": {"for": "salt"}}white',
        ),
        (
            EACH + "{% if m.role == 'tool' and m.tool_call_id | length != 9 %}{{ raise_exception('9') }}{% endif %}"
            "{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}{{ m.name }}{% endfor %}",
            [ASK, CALL | {"tool_calls": '[{"function": {"name": "look", "arguments": "{}"}}]'}, NAMELESS],
            'salt?[{"function": {"name": "look", "arguments": {}}, "id": "call00001", "type": "function"}]whitelook',
        ),
        (EACH + "{{ m.thinking }};{{ m.content }};{% endfor %}", [ASK, THOUGHT], ";salt?;it is a crystal;white;"),
        (EACH + "{{ m.content }};{% endfor %}", [ASK, THOUGHT], "salt?;<think>\nit is a crystal\n</think>\n\nwhite;"),
    ],
    ids=["plain", "parts", "no-system", "once", "developer", "json", "object", "none", "short-ids", "field", "text"],
)  # fmt: skip
def test_messages_take_the_shape_that_the_template_writes(template, messages, text):
    """So that nothing of a message is dropped because a template looks for it elsewhere."""
    assert render(Template(template), messages) == text


def test_tools_are_given_as_schemas_of_functions():
    """As JSON or as a list, with or without the wrapping `function`."""
    template, tool = Template("{{ tools | tojson }}{{ messages[0].content }}"), {"name": "look", "parameters": {}}
    wrapped = [{"type": "function", "function": tool}]
    for tools in (json.dumps([tool]), wrapped):
        assert render(template, [ASK], tools) == json.dumps(wrapped) + "salt?"
    for tools in ("look", "{}", ["look"]):
        with pytest.raises(ConversationError, match="no list of schemas"):
            render(template, [ASK], tools)


def test_a_template_that_writes_the_date_writes_the_same_on_each_day():
    """Else the training data would change over night, between an interruption and its resume."""
    template = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}{{ messages[0].content }}"
    assert render(Template(template), [ASK]) == "26 Jul 2024salt?"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}", "{{ raise_exception('not so') }}", "{{ 1 + 'a' }}", "{{ 1 / 0 }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "{% for n in range(10**9) %}x{% endfor %}",
        "{{ messages.append(1) }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% include '/etc/passwd' %}",
        "{{ cycler.__init__.__globals__.os.popen('exit') }}",
    ],
)  # fmt: skip
def test_a_template_that_cannot_write_a_conversation_says_so(template):
    """A syntax error, its own refusal, an operator that fails; what the sandbox refuses: files, code, long loops."""
    with pytest.raises(ConversationError, match=r"the chat template cannot write this conversation: .+"):
        render(Template(template), [ASK])


def test_results_without_ids_belong_to_the_calls_in_their_order():
    """Each call has one result."""
    calls = [{"id": name, "function": {"name": name, "arguments": {}}} for name in ("first", "second")]
    called = {"role": "assistant", "content": "", "tool_calls": json.dumps(calls)}
    template = Template(EACH + "{{ m.content }} {{ m.tool_call_id or '' }};{% endfor %}")
    text = render(template, [ASK, called, NAMELESS, NAMELESS])
    assert text.endswith("white first;white second;")
