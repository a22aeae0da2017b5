"""`pretune serve`: a chat model behind an OpenAI-compatible endpoint, by llama.cpp."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer


def serve(
    model: Annotated[
        Path, typer.Argument(help="What `pretune export --format gguf` wrote: a folder, or a .gguf file.")
    ],
    port: Annotated[int, typer.Option(help="The port on 127.0.0.1; 0 takes a free one.")] = 8080,
    name: Annotated[str, typer.Option(help="The model's name in requests and answers.")] = "pretune",
) -> None:
    """Serve an exported chat model to OpenAI's clients on this machine, until it is stopped (Ctrl-C).

    Clients need the key: that of the variable PRETUNE_SERVE_KEY, else a random one, which is printed.
    """
    from pretune.release.export import llama_cpp

    file = _gguf(model)
    with llama_cpp.serve(file, context=0, threads=os.cpu_count() or 1, port=port, name=name) as server:
        shown = f"the key is that of {llama_cpp.KEY}" if os.environ.get(llama_cpp.KEY) else f"key: {server.key}"
        print(f"{name}: {server.address}/v1   {shown}   (stop with Ctrl-C)", flush=True)
        with suppress(KeyboardInterrupt):
            server.wait()


def _gguf(path: Path) -> Path:
    from pretune.errors import DataError

    files = sorted(path.glob("*.gguf")) if path.is_dir() else [path] * (path.suffix == ".gguf" and path.is_file())
    if len(files) != 1:
        raise DataError(f"{path} is not one GGUF file", "pretune export @champion FOLDER --format gguf")
    return files[0]
