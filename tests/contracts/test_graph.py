"""dvc.yaml against the code: what a stage declares is what it really imports and reads."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from cli import graphs
from pretune.config.params import Params

ROOT = Path(__file__).parent.parent.parent


def stages_with(*names):
    """The stages of dvc.yaml with these graphs of examples/graphs."""
    document = YAML().load(ROOT / "dvc.yaml")
    graphs.apply(document, ROOT, names)
    return document["stages"]


DEFAULT = stages_with()
STAGES = stages_with("teacher", "align")  # all there are
PACKAGES = ("cli", "flows", "tasks", "pretune")
EVERY_STAGE = pytest.mark.parametrize("name", STAGES)


def module_file(module):
    """The file of one of our modules; None for a package, whose __init__.py holds nothing, and for others'."""
    if module.split(".")[0] not in PACKAGES:
        return None
    path = Path(*module.split(".")).with_suffix(".py")
    return path if (ROOT / path).is_file() else None


def imported(path, tree):
    """Names that may be modules, from every import that runs: those under TYPE_CHECKING do not."""
    pending = list(ast.iter_child_nodes(tree))
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            parents = path.parent.parts[: len(path.parent.parts) - node.level + 1] if node.level else ()
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        pending += ast.iter_child_nodes(node)


@cache
def imports_of(path):
    """Our files that a file imports itself."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(file for module in imported(path, tree) if (file := module_file(module)))


def closure(path):
    """A file and all of ours that it imports, directly or not."""
    found, pending = set(), [path]
    while pending:
        file = pending.pop()
        if file not in found:
            found.add(file)
            pending += imports_of(file)
    return {file.as_posix() for file in found}


def sections(name):
    """The sections of params that a stage declares, whole or in part."""
    return {param.partition(".")[0] for param in STAGES[name].get("params", [])}


def code_deps(name):
    """The folders and files of our code that a stage declares."""
    return [dep for dep in STAGES[name].get("deps", []) if dep.split("/")[0] in PACKAGES]


def lies_within(file, dep):
    """Whether a declared folder or file covers a file."""
    return file == dep or file.startswith(f"{dep}/")


@EVERY_STAGE
def test_imports_lie_within_the_declared_folders(name):
    """Every file that running a stage imports is an input of the stage, so that an edit to it reruns the stage."""
    files = closure(Path("tasks", f"{name}.py"))
    assert [file for file in sorted(files) if not any(lies_within(file, dep) for dep in code_deps(name))] == []


@EVERY_STAGE
def test_every_declared_folder_is_used(name):
    """A folder of which a stage imports nothing would rerun it for no reason; so would a path declared twice."""
    files = closure(Path("tasks", f"{name}.py"))
    deps = code_deps(name)
    assert [dep for dep in deps if not any(lies_within(file, dep) for file in files)] == []
    assert [dep for dep in deps if any(lies_within(dep, other) for other in deps if other != dep)] == []


@EVERY_STAGE
def test_what_never_changes_a_model_is_no_input_of_training(name):
    """An edit to the command line, the flow, the evaluation or the release never retrains."""
    trains = {"pretrain", "finetune", "scratch", "label_efficiency"}
    never = ("cli", "flows", "pretune/evaluation", "pretune/release")
    if name in trains:
        assert [dep for dep in code_deps(name) if any(lies_within(dep, path) for path in never)] == []


def test_a_finetuning_objective_is_no_input_of_pretraining():
    """An edit to one reruns the stages that finetune, and leaves the pretrained model alone."""
    assert not any(lies_within("pretune/objectives/finetuning/binary.py", dep) for dep in code_deps("pretrain"))
    assert any(lies_within("pretune/objectives/finetuning/binary.py", dep) for dep in code_deps("finetune"))


def test_the_closure_sees_every_kind_of_import(tmp_path):
    """Plain, from, relative and within a function: all count; under TYPE_CHECKING: none does."""
    code = """
import pretune.config.params
from pretune.tracking import journal
from .errors import x
from typing import TYPE_CHECKING
import typing
if TYPE_CHECKING:
    from pretune.tracking import trace
if typing.TYPE_CHECKING:
    from pretune.runtime import stage
else:
    from pretune import process
def f():
    from pretune.data.loading import corpus
"""
    found = {file for module in imported(Path("pretune/made_up.py"), ast.parse(code)) if (file := module_file(module))}
    names = {"config/params", "tracking/journal", "errors", "process", "data/loading/corpus"}
    assert {file.as_posix() for file in found} == {f"pretune/{name}.py" for name in names}


@pytest.mark.parametrize(
    "path", sorted(p.relative_to(ROOT).as_posix() for k in PACKAGES for p in (ROOT / k).rglob("__init__.py"))
)
def test_packages_hold_nothing_but_a_docstring(path):
    """An `__init__.py` with code would be an input of every stage that no stage declares."""
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)
    assert isinstance(body[0].value.value, str)


def test_the_lock_is_of_this_graph():
    """dvc.lock is a run's result, not one of a graph that was: the same stages read, are told and write the same."""
    locked = YAML(typ="safe").load(ROOT / "dvc.lock")["stages"]

    def paths(entry, *kinds):
        listed = [each for kind in kinds for each in entry.get(kind, [])]
        return {each if isinstance(each, str) else each.get("path", next(iter(each))) for each in listed}

    def facts(entry, params):
        return entry["cmd"], paths(entry, "deps"), set(params), paths(entry, "outs", "metrics", "plots")

    assert {name: facts(entry, entry["params"]["params.yaml"]) for name, entry in locked.items()} == {
        name: facts(entry, entry.get("params", [])) for name, entry in DEFAULT.items()
    }


@EVERY_STAGE
def test_a_stages_name_is_its_command_its_file_and_its_function(name):
    """One word per thing everywhere."""
    assert STAGES[name]["cmd"].split()[-3:] == ["-m", "tasks", name]
    tree = ast.parse((ROOT / "tasks" / f"{name}.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    assert len(functions) == 1
    assert functions[0].args.args[0].arg == "stage"
    assert ast.get_docstring(tree).startswith(f"{name}: ")


def test_every_file_of_tasks_is_a_stage():
    """Nothing lies in tasks/ that the graph does not run."""
    files = {path.stem for path in (ROOT / "tasks").glob("*.py")} - {"__init__", "__main__"}
    assert files == set(STAGES)


@EVERY_STAGE
def test_declared_parameters_are_sections_that_exist(name):
    """Sections of the schema, or keys of one."""
    assert sections(name) <= set(Params.model_fields)


@EVERY_STAGE
def test_declared_parameters_are_those_that_the_code_reads(name):
    """Each section that the stage's code asks for by `stage.params.SECTION` is declared, and none besides.

    `reference` and `align` share code with what `finetune` does, and read the section of their graph.
    """
    code = "".join((ROOT / file).read_text(encoding="utf-8") for file in closure(Path("tasks", f"{name}.py")))
    read = set(re.findall(r"stage\.params\.(\w+)", code))
    assert read - ({"finetune"} if name in {"reference", "align"} else set()) == sections(name)


def test_every_section_is_declared_by_some_stage():
    """A setting that no stage reads would be one that changes nothing; `gate` is what `pretune promote` reads."""
    read = {section for name in STAGES for section in sections(name)}
    assert read | {"gate"} == set(Params.model_fields)


def test_a_graph_of_a_recipe_leaves_no_trace_when_another_is_taken():
    """Whatever comes after whatever, dvc.yaml is the same as if it had been the first."""
    document = YAML().load(ROOT / "dvc.yaml")
    for names in (["align"], ["teacher"], ["reference"], ["align", "teacher"], ["align"], []):
        graphs.apply(document, ROOT, names)
        assert document["stages"] == stages_with(*names)
    assert document["stages"] == YAML().load(ROOT / "dvc.yaml")["stages"]


def test_the_reference_is_computed_alike_before_either_stage():
    """The two graphs differ in the model and in the section of params only."""
    one, other = stages_with("align")["reference"], stages_with("reference")["reference"]
    assert [dep for dep in one["deps"] if dep not in other["deps"]] == ["models/finetuned"]
    assert [param.replace("align.", "finetune.") for param in one["params"]] == other["params"]
    assert stages_with("reference")["finetune"]["deps"][0] == "data/reference"


@EVERY_STAGE
def test_commands_are_fixed(name):
    """Parameters are never pasted into a command line: that would be shell injection."""
    assert "$" not in STAGES[name]["cmd"]
    assert not set("`;&|<>") & set(STAGES[name]["cmd"])


@EVERY_STAGE
def test_hints_for_the_flow_are_numbers(name):
    """`meta` holds retries and a timeout in seconds."""
    meta = STAGES[name]["meta"]
    assert set(meta) == {"retries", "timeout"}
    assert meta["retries"] >= 0 < meta["timeout"]
