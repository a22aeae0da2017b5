"""`pretune …`: the command line. Heavy imports wait until a command needs them."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable

import typer

from cli import data, stack, sweep
from cli.chat import chat
from cli.compare import compare
from cli.deployment import approve, notify
from cli.doctor import doctor
from cli.export import export
from cli.init import init, recipes
from cli.plan import plan
from cli.predict import predict
from cli.promote import promote, rollback
from cli.reproduce import reproduce
from cli.run import run
from cli.serve import serve
from cli.study import study
from cli.trace import trace
from cli.ui import ui
from cli.why import why
from pretune.errors import PretuneError, machine_error
from pretune.process import NO_BARS, reach_loopback_directly
from pretune.tracking.refusal import refusal

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="From raw data to an evaluated model: Prefect runs the stages, DVC versions them, MLflow records them.",
    epilog="Start with:  pretune plan,  pretune run,  pretune ui",
)
COMMANDS: dict[Callable[..., None], str] = {  # each with an example
    run: "pretune run finetune --set finetune.learning_rate=3e-4 --set seed=1",
    plan: "pretune plan evaluate --json",
    why: "pretune why finetune",
    doctor: "pretune doctor --fix",
    ui: "pretune ui    pretune ui --mlflow-port 5001 --prefect-port 4201",
    study: "pretune study learning-rate    pretune study size --seeds 3    pretune study labels --target 0.7",
    trace: "pretune trace models/finetuned    pretune trace data/raw    pretune trace 3f2a…",
    compare: "pretune compare 3f2a9c41 HEAD~1    pretune compare @champion @challenger",
    promote: "pretune promote    pretune promote 3f2a9c41 --json",
    rollback: "pretune rollback",
    approve: "pretune approve    pretune approve --refuse --reason 'too slow on long texts'",
    notify: "pretune notify slack-webhook/team",
    reproduce: "pretune reproduce 3f2a9c41",
    export: "pretune export @champion exported --int8",
    serve: "pretune export @champion llama-cpp --format gguf && pretune serve llama-cpp",
    predict: "pretune predict @champion reviews.csv --keep id    pretune predict models/finetuned < a.txt",
    chat: "pretune chat    pretune chat @champion --system 'Answer in one sentence.' --temperature 0.7",
    recipes: "pretune recipes",
    init: "pretune init data/reviews.csv\n\npretune init train.jsonl --test test.jsonl --corpus 'wiki/*.txt'\n\n"
    "pretune init photos/    (a folder per label)\n\npretune init hub:stanfordnlp/sst2\n\n"
    "pretune init reviews.csv --column text=body --column label=stars --budget 10 --yes\n\n"
    "pretune init topics --data ~/ag_news    (a recipe; pretune recipes lists them)",
}
for command, example in COMMANDS.items():
    app.command(epilog=f"Example:  {example}")(command)
app.add_typer(sweep.app, name="sweep", epilog=sweep.EXAMPLES)
app.add_typer(stack.app, name="stack", epilog=stack.EXAMPLES)
app.add_typer(data.app, name="data", epilog="Example:  pretune data show")


def main() -> None:
    """Run a command. A PretuneError, or a fault of the machine, ends in a message and its exit code, no traceback."""
    gc.set_threshold(100_000)  # collecting garbage during the imports takes a fifth of the time
    reach_loopback_directly()
    os.environ |= NO_BARS
    try:
        app()
    except Exception as error:
        known = error if isinstance(error, PretuneError) else refusal(error) or machine_error(error)
        if known is None:
            raise
        for problem in known.problems:
            print(f"error: {problem}", file=sys.stderr)
        if known.next_step:
            print(f"next:  {known.next_step}", file=sys.stderr)
        sys.exit(known.exit_code)


if __name__ == "__main__":
    main()
