"""`pretune chat`: talk to a chat model in the terminal."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pretune.release.chat import Chat

HELP = (
    "/reset forgets the messages, /system TEXT sets another instruction, Ctrl-C stops an answer, /exit or Ctrl-D ends"
)


def chat(
    model: Annotated[
        str | None, typer.Argument(help="As for predict; without it @champion, else the model made last.")
    ] = None,
    system: Annotated[str, typer.Option(help="An instruction before the first message.")] = "",
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the sampling at a temperature above 0.")] = 0,
) -> None:
    """Talk to a chat model. Standard input that is piped holds a message in each line."""
    from pretune.release import chat as chats
    from tasks.__main__ import OFFLINE

    os.environ |= OFFLINE
    conversation = chats.Chat(chats.load(model), system=system, temperature=temperature, seed=seed)
    if sys.stdin.isatty():
        import readline  # noqa: F401 - input() then has a history

        print(HELP, file=sys.stderr)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except KeyboardInterrupt:
            print()
            continue
        except EOFError:
            return
        if line == "/exit":
            return
        if line:
            _respond(conversation, line)


def _respond(conversation: Chat, line: str) -> None:
    """Follow a command, or answer a message."""
    command, _, rest = line.partition(" ")
    if command in {"/reset", "/system"}:
        conversation.reset(rest.strip() if command == "/system" else None)
    elif command.startswith("/") and command[1:].isalpha():
        print(f"no command {command}: {HELP}", file=sys.stderr)
    else:
        _answer(conversation, line)


def _answer(conversation: Chat, message: str) -> None:
    """Print the answer as it comes."""
    from pretune.errors import DataError

    dropped = conversation.dropped
    try:
        with closing(conversation.ask(message)) as pieces:
            for piece in pieces:
                print(piece, end="", flush=True)
    except KeyboardInterrupt:
        pass
    except DataError as error:
        if not sys.stdin.isatty():
            raise
        print(f"error: {error.problems[0]}", file=sys.stderr)
    print(flush=True)
    if more := conversation.dropped - dropped:
        print(f"warning: the oldest {more} messages were left out: they no longer fit", file=sys.stderr)
