"""deploy/: containers and manifests run the parts that `pretune stack` runs, with secrets from one file."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pretune.stack import parts, postgres, settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
SECRET = re.compile(r"PASSWORD|SECRET|ACCESS_KEY|AUTH_STRING")
OF_A_FOLDER = {"PREFECT_HOME", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"}  # what containers have of their own
READ_BY_COMPOSE = {"PRETUNE_IMAGE", "PRETUNE_WORKSPACE"}  # not secret: the image's tag, the clone of the worker


def load(path):
    """The documents of a YAML file, anchors and merges resolved."""
    return list(YAML(typ="safe", pure=True).load_all(path.read_text(encoding="utf-8")))


def manifests(kind):
    """{name: containers, those that run once included} of the base's objects."""
    found = {}
    for path in sorted(BASE.glob("*.yaml")):
        for document in load(path):
            if document["kind"] in kind:
                pod = document["spec"]["template"]["spec"]
                found[document["metadata"]["name"]] = (pod, [*pod.get("initContainers", []), *pod["containers"]])
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """{name: part} as `pretune stack up` starts them; PostgreSQL's programs need not be here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgres, "program", lambda name: name)
        patch.setattr(postgres, "owner", dict)
        values = {name: make() for name, make in settings.DEFAULTS.items()}
        groups = parts.groups(tmp_path_factory.mktemp("stack"), values)
        return {part.name: part for group in groups for part in group}


@pytest.fixture(scope="module")
def compose():
    """The services of compose.yaml."""
    return load(DEPLOY / "compose.yaml")[0]["services"]


@pytest.fixture(scope="module")
def pods():
    """The pods of the base by name."""
    return manifests({"Deployment", "StatefulSet"})


def essence(command):
    """The module and the options of a command line, without where it listens and keeps its files."""
    words = [str(word) for word in command]
    module = words[words.index("-m") + 1]
    return module, {word for word in words if word.startswith("--") and word not in {"--name", "--log-level"}}


def test_the_example_names_every_setting_and_no_secret():
    """The names and order of pretune/stack/settings.py; addresses have their defaults, secrets are empty."""
    lines = (DEPLOY / "stack.env.example").read_text(encoding="utf-8").splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert list(given) == list(settings.DEFAULTS)
    assert given == {name: settings.DEFAULTS[name]() if name in settings.ADDRESSES else "" for name in given}


def test_the_same_parts_run_everywhere(plain, compose, pods):
    """The names, the modules and options of their commands, and the variables that they are given."""
    assert set(plain) == set(pods) == set(compose) - {"buckets", "accounts"}
    for name, part in plain.items():
        container = next(c for c in pods[name][1] if c["name"] == name)
        if name == "postgres":
            assert container["image"] == compose[name]["image"]
            continue
        assert essence(part.command) == essence(compose[name]["command"]) == essence(container["command"])
        wanted = {key for key in part.environment if key.startswith(parts.FOREIGN) and key != parts.MARK}
        assert (
            wanted - OF_A_FOLDER == set(compose[name]["environment"]) == {entry["name"] for entry in container["env"]}
        )


def test_secrets_come_from_the_file(compose, pods):
    """Each is a reference to a name of the example, also in what runs once; nothing else is asked for."""
    known = set(settings.DEFAULTS)
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(\w+)", text)) <= known | READ_BY_COMPOSE
    for service in compose.values():
        for name, value in service.get("environment", {}).items():
            assert not SECRET.search(name) or re.fullmatch(r"\$\{\w+:\?\}", value), name
    for _pod, containers in pods.values():
        for entry in (entry for container in containers for entry in container.get("env", [])):
            assert ("valueFrom" in entry) == bool(SECRET.search(entry["name"])), entry
            if "valueFrom" in entry:
                assert entry["valueFrom"]["secretKeyRef"]["name"] == "stack"
                assert entry["valueFrom"]["secretKeyRef"]["key"] in known


def test_nothing_runs_as_root_or_is_published_by_default(compose, pods):
    """Ports are those of STACK_HOST, 127.0.0.1 by default; containers gain no privileges; images have a version."""
    for service in compose.values():
        assert all(port.startswith("${STACK_HOST:-127.0.0.1}:") for port in service.get("ports", []))
        assert "no-new-privileges:true" in service["security_opt"]
        assert re.search(r":(\$\{PRETUNE_IMAGE:-cpu\}|\d+\.\d+)", service["image"])
    for pod, containers in pods.values():
        assert pod["securityContext"]["runAsNonRoot"]
        for container in containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^ARG PYTHON=\d+\.\d+\.\d+-", dockerfile, re.MULTILINE)
    assert re.search(r"^USER 1000", dockerfile, re.MULTILINE)
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE):
        for name in copied.split():
            assert (ROOT / name).exists(), name
            assert f"!{name}" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines(), name


def test_the_overlay_is_built_with_a_filled_in_file(tmp_path):
    """`kubectl kustomize` makes of it one object of each part, with a secret that holds the file."""
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl on this machine")
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    overlay = tmp_path / "deploy" / "kubernetes" / "overlays" / "local"
    settings.complete(overlay / "stack.env")
    command = ["kubectl", "kustomize", str(overlay)]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    objects = [(document["kind"], document["metadata"]["name"]) for document in YAML(typ="safe").load_all(built)]
    assert sorted(name for kind, name in objects if kind in {"Deployment", "StatefulSet"}) == sorted(parts.NAMES)
    assert sorted(name for kind, name in objects if kind == "Service") == sorted(set(parts.NAMES) - {"worker"})
    assert [name.partition("-")[0] for kind, name in objects if kind == "Secret"] == ["stack"]
