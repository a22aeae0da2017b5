from __future__ import annotations

import json
import subprocess
import sys

import pytest

COMMANDS = [
    "run", "plan", "why", "trace", "doctor", "ui", "compare", "promote", "rollback", "approve", "notify",
    "reproduce", "predict", "chat", "export", "serve", "init", "recipes", "data", "sweep", "study",
    "stack",
]  # fmt: skip
# Asks for every help text in one process, then tells which modules that took.
ASK = """
import contextlib, io, json, sys
from cli.app import app
texts = {}
for arguments in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        app([*arguments, "--help"])
    texts[" ".join(arguments)] = out.getvalue()
print(json.dumps({"texts": texts, "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def asked(root):
    """The help texts by command, and the modules that were imported for them."""
    arguments = json.dumps([[], *([command] for command in COMMANDS)])
    done = subprocess.run([sys.executable, "-c", ASK, arguments], capture_output=True, text=True, check=True, cwd=root)
    return json.loads(done.stdout)


def test_the_list_of_commands_is_complete(asked):
    """`pretune --help` names every command that this file asks about, and there are no others."""
    import typer.main

    from cli.app import app

    assert set(typer.main.get_command(app).commands) == set(COMMANDS)
    assert all(command in asked["texts"][""] for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example(asked, command):
    """`--help` shows a line that can be typed."""
    text = asked["texts"][command]
    assert "Example" in text
    assert f"pretune {command}" in text.split("Example", 1)[1]


@pytest.mark.parametrize("heavy", ["torch", "mlflow", "prefect", "transformers", "dvc", "pandas", "sklearn", "numpy"])
def test_help_loads_nothing_heavy(asked, heavy):
    """Help answers at once: what takes seconds to import waits for a command that needs it."""
    assert heavy not in asked["modules"]


@pytest.mark.parametrize(
    "command", ["run", "plan", "why", "trace", "doctor", "compare", "promote", "rollback", "reproduce", "export"]
)
def test_commands_that_report_can_do_so_for_programs(asked, command):
    """`--json` is there."""
    assert "--json" in asked["texts"][command]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["plan", "fintune"], 3), (["why", "nothing"], 3), (["nonsense"], 2), (["run", "--wrong"], 2)],
)
def test_a_mistake_ends_with_its_code_and_no_traceback(project, arguments, code):
    """Exit codes are those documented in pretune/errors.py."""
    command = [sys.executable, "-m", "cli.app", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=project)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
