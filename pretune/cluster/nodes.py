"""What the nodes of a cluster have, compared with this machine, and what runs on them.

Ray sends the functions that run on a node by value, so that one that lacks the workspace can still say so: they need
the standard library only.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pretune.errors import WorkspaceError
from pretune.process import PARENT

CHECK = 60.0  # seconds that a node has to say what it has
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "dvc")  # results or caches could depend on their versions
OURS = ("PRETUNE_", "MLFLOW_", "DVC_", "HF_", "OMP_", "MKL_")  # variables that are the same on all nodes
RAYS = ("RAY_",)
DEVICES = "CUDA_VISIBLE_DEVICES"


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of Python and of packages; "missing" for one that is not installed."""
    found = {"Python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def contents(paths: Sequence[str]) -> dict[str, str]:
    """{path: hash of its content}; "" for a file that cannot be read."""
    found = dict.fromkeys(paths, "")
    for path in paths:
        with suppress(OSError):
            found[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return found


def describe(packages: Sequence[str], paths: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The versions on this node, and what it has at these paths."""
    return versions(packages), contents(paths)


def environment(ours: Mapping[str, str], gpus: int) -> dict[str, str]:
    """The variables of a process on this node: `ours`, and the node's own that are not ours or Ray's.

    gpus: how many of the node's are for it; Ray says which.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS + RAYS)}
    devices = os.environ.get(DEVICES, "") if gpus else ""
    return {**kept, **ours, DEVICES: devices, PARENT: str(os.getpid())}


def run(command: Sequence[str], root: str, log: str, ours: Mapping[str, str], gpus: int) -> int:
    """Run `python COMMAND… ADDRESS` in the folder `root` to its end; its exit code.

    ADDRESS: where other nodes find this one.
    """
    import ray

    arguments = [sys.executable, *command, ray.util.get_node_ip_address()]
    with Path(log).open("a", encoding="utf-8") as file:
        done = subprocess.run(
            arguments, cwd=root, env=environment(ours, gpus), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            check=False,
        )  # fmt: skip
    return done.returncode


def own_variables() -> dict[str, str]:
    """The variables of this process that those on nodes have as well."""
    return {name: value for name, value in os.environ.items() if name.startswith(OURS)}


def fits(node: Mapping[str, Any], wanted: Mapping[str, float]) -> int:
    """How often a node, as `ray.nodes()` describes it, has all that is `wanted`, as {"CPU": 2}."""
    has = node["Resources"] if node["Alive"] else {}
    return min(int(has.get(name, 0) // count) for name, count in wanted.items() if count)


def name_of(node: Mapping[str, Any]) -> str:
    """Its name and address."""
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def reason(error: Exception) -> str:
    """What an error of Ray's says, in one line: the first is the same for all, the details are indented."""
    lines = [line for line in str(error).splitlines() if line and not line[0].isspace()]
    return (lines[1:] or lines or [type(error).__name__])[0].strip()


def check(ray: Any, nodes: Sequence[Mapping[str, Any]], file: Path, folders: Iterable[Path], next_step: str) -> None:
    """Compare each node with this machine: versions, a file, and folders that only a shared file system can show to it.

    Raises WorkspaceError with all that is wrong on all nodes.
    """
    tokens = [folder / f"cluster-{uuid.uuid4().hex}" for folder in folders]
    for token in tokens:
        token.parent.mkdir(parents=True, exist_ok=True)
        token.write_text(token.name, encoding="utf-8")
    try:
        problems = _differences(ray, nodes, [str(path) for path in (file, *tokens)])
    finally:
        for token in tokens:
            token.unlink()
    if problems:
        raise WorkspaceError(
            problems,
            "run `make setup` with the same lock file on all nodes, mount the workspace at the same path, "
            f"start Ray there again, then: {next_step}",
        )


def _differences(ray: Any, nodes: Sequence[Mapping[str, Any]], paths: list[str]) -> list[str]:
    """One line for each difference between a node and this machine."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    task, problems = ray.remote(describe), []
    here, expected = describe(PACKAGES, paths)
    options = [{"num_cpus": 0, "scheduling_strategy": On(node["NodeID"], soft=False)} for node in nodes]
    answers = [task.options(**each).remote(PACKAGES, paths) for each in options]
    for node, answer in zip(nodes, answers, strict=True):
        try:
            its_versions, its_contents = ray.get(answer, timeout=CHECK)
        except ray.exceptions.RayError as error:
            problems.append(f"{name_of(node)} does not answer: {reason(error)}")
            continue
        for package, own in here.items():
            if its_versions[package] != own:
                problems.append(f"{name_of(node)} has {package} {its_versions[package]}; here there is {own}")
        unseen = sorted({str(Path(path).parent) for path in paths if its_contents[path] != expected[path]})
        problems += [f"{name_of(node)} does not see {folder} of this machine" for folder in unseen]
    return problems
