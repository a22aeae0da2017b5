"""A conversation with a trained chat model, answered token by token."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

from pretune.errors import DataError
from pretune.predictor import decoding
from pretune.predictor.chat import Reply
from pretune.predictor.conversation import ConversationError
from pretune.release import predict

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what a character of which bytes are missing is decoded to


def load(model: str | None) -> Reply:
    """The predictor of a chat model; without a name the champion, else the one that was made last."""
    answers = predict.load_predictor(model)
    if not isinstance(answers, Reply):
        reads, gives = ", ".join(answers.reads), ", ".join(answers.gives)
        raise DataError(
            f"{model or 'the model'} is no chat model: it reads {reads} and gives {gives}",
            f"pretune predict {model or ''}".strip(),
        )
    return answers


class Chat:
    """The messages so far, and the model that answers them. What it has read already is not read again."""

    def __init__(self, answers: Reply, *, system: str = "", temperature: float = 0.0, seed: int = 0) -> None:
        self.answers, self.system = answers, system
        self.turns: list[dict[str, Any]] = []
        self.dropped = 0  # messages that no longer fit
        self._choose = decoding.sampler(temperature, seed)
        self._session = decoding.Session(answers.model)

    def reset(self, system: str | None = None) -> None:
        """Forget the messages; with `system`, go on with another instruction."""
        self.turns, self.dropped = [], 0
        self.system = self.system if system is None else system

    def ask(self, message: str) -> Generator[str]:
        """The answer in pieces, as they are generated. An answer that is not read to its end stays as far as it got."""
        self.turns.append({"role": "user", "content": message})
        try:
            prompt = self._prompt()
        except ConversationError as error:
            self.turns.pop()
            raise DataError(str(error), "write another message, or /reset") from None
        answer = {"role": "assistant", "content": ""}
        self.turns.append(answer)
        ids: list[int] = []
        shown = ""
        limit = self.answers.inference_config["reply_tokens"]
        with closing(self._session.stream(prompt, limit, self.answers.stop, self._choose)) as tokens:
            for token in tokens:
                ids.append(token)
                answer["content"] = text = self.answers.text(ids)
                if text.endswith(INCOMPLETE):
                    continue
                if not text.startswith(shown):  # a thought has ended, which is no part of the answer
                    yield "\n\n"
                    shown = ""
                yield text[len(shown) :]
                shown = text
        yield answer["content"].removeprefix(shown)

    def _prompt(self) -> Sequence[int]:
        """The conversation in tokens, without the oldest messages where it is too long for the model."""
        instruction = [{"role": "system", "content": self.system}] if self.system else []
        while True:
            prompt = self.answers.prompt({"messages": instruction + self.turns})
            if len(prompt) <= self.answers.room:
                return prompt
            if len(self.turns) < 3:
                raise ConversationError(
                    f"the message has {len(prompt)} tokens in the template, of {self.answers.room} that are read"
                )
            del self.turns[:2]
            self.dropped += 2
