from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from pretune.config import files

SPEC = importlib.util.spec_from_file_location("documents", Path(__file__).parent / "documents.py")
documents = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(documents)

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = files.read_yaml(ROOT / "prefect.yaml")["deployments"]


@pytest.mark.slow
@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_a_deployment_names_a_flow_and_parameters_that_it_takes(deployment):
    """What `prefect deployment run` triggers is a flow of ours, with parameters that it takes, from triggers too."""
    path, _, name = deployment["entrypoint"].partition(":")
    flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    assert flow.name == {"pipeline": "pretune", "watch": "pretune-watch"}[deployment["name"]]
    for given in ({}, *(trigger.get("parameters", {}) for trigger in deployment["triggers"])):
        parameters = deployment["parameters"] | given
        assert flow.validate_parameters(parameters).items() >= parameters.items()


@pytest.mark.parametrize("path", sorted((ROOT / "deploy" / "ci").glob("*.yml")), ids=lambda path: path.name)
def test_commands_of_ci_exist(path):
    """Each command of our programs in the jobs for GitHub and GitLab is one, with options that it has."""
    steps = [line.strip() for step in scripts(files.read_yaml(path)) for line in step.splitlines()]
    problems = [
        problem
        for step in steps
        for command in documents.simple_commands(shlex.split(re.sub(r"\$\{\{.*?\}\}", "VALUE", step), comments=True))
        for problem in documents.command_problems(command, strict=False)
    ]
    assert problems == []
    assert any("pretune compare" in step and ". --markdown" in step for step in steps)
    assert any("dvc pull" in step for step in steps)


def scripts(node):
    """The texts below `run` (GitHub) and `script` (GitLab)."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield from ([value] if isinstance(value, str) else value) if key in {"run", "script"} else scripts(value)
    for value in node if isinstance(node, list) else ():
        yield from scripts(value)
