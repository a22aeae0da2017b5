"""What an engine is asked, and what ends its answers."""

from __future__ import annotations

import http.server
import json
import threading
from types import SimpleNamespace

import pytest

from pretune.release.export import engines, llama_cpp


def test_a_conversation_is_asked_with_its_thoughts_calls_and_tools():
    """In the form of OpenAI's protocol: arguments as text, tools as functions, whatever form the row has."""
    call = {"id": "1", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
    tool = {"name": "weather", "parameters": {"type": "object"}}
    row = {
        "messages": [
            {"role": "user", "content": "is it warm?"},
            {"role": "assistant", "content": "", "reasoning": "ask", "tool_calls": json.dumps([call])},
            {"role": "tool", "content": "21", "tool_call_id": "1"},
        ],
        "tools": json.dumps([tool, {"type": "function", "function": tool}]),
    }
    called = {"name": "weather", "arguments": '{"city": "Zürich"}'}
    assert engines.openai_request(row) == {
        "messages": [
            {"role": "user", "content": "is it warm?"},
            {"role": "assistant", "content": "", "reasoning_content": "ask",
             "tool_calls": [{"id": "1", "type": "function", "function": called}]},
            {"role": "tool", "content": "21", "tool_call_id": "1"},
        ],
        "tools": [{"type": "function", "function": tool}] * 2,
    }  # fmt: skip
    assert engines.openai_request({"messages": []}) == {"messages": []}


def test_a_plain_text_is_continued_and_a_conversation_stays_as_it_was_rendered(words):
    """So the token that the tokenizer ends a text with is left out; the template has written its own."""
    whole = words("salt", add_special_tokens=True)["input_ids"]
    assert whole[-1] == words.sep_token_id
    assert engines.token_ids(words, "salt", chat=False) == whole[:-1]
    assert engines.token_ids(words, "salt[SEP]", chat=True) == [*whole[1:-1], words.sep_token_id]


def test_a_checkpoint_of_the_hub_is_taken_at_its_revision(tmp_path):
    """A folder is a place on this disk."""
    assert engines.located("somebody/model@0123abc") == ("somebody/model", "0123abc")
    assert engines.located(tmp_path / ".." / tmp_path.name) == (str(tmp_path.resolve()), None)


@pytest.mark.parametrize(("named", "expected"), [(None, 2), (2, 2), (7, [2, 7]), ([7, 2, 8], [2, 7, 8])])
def test_an_answer_ends_where_the_tokenizer_or_the_checkpoint_says(words, named, expected):
    """Each end once, and as a number if it is the only one."""
    assert words.sep_token_id == 2
    config = SimpleNamespace(eos_token_id=named, pad_token_id=None)
    engines.set_ends(config, words)
    assert (config.eos_token_id, config.pad_token_id) == (expected, words.pad_token_id)


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers a request with its body."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Nothing is printed."""


def test_llama_cpp_is_asked_on_this_machine_and_not_through_a_proxy(monkeypatch):
    """That a machine of a company names for all addresses."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.HTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        client = llama_cpp.LlamaCpp(f"http://127.0.0.1:{server.server_port}", "key", lambda: 0)
        assert client.post("/completion", {"prompt": "ü"}) == {"prompt": "ü"}
