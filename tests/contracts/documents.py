"""What documents name, compared with the code: links, paths, functions, settings, commands and messages.

Each check yields the problems of one document. Nothing is run, and nothing is looked up elsewhere.
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import logging
import posixpath
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import get_args, get_origin

import typer
from markdown_it import MarkdownIt
from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pretune.config.params import RENAMED, Params

ROOT = Path(__file__).parents[2]
CODE = ("cli", "flows", "tasks", "pretune", "benchmarks", "scripts", "to_tensorflow")
MADE = {  # by a run or a command, besides the outputs in dvc.yaml
    ".dvc/cache", ".dvc/config.local", ".dvc/tmp", ".dvc/tmp/exps", ".pretune/checkpoints", ".pretune/journal",
    ".pretune/faults.jsonl", ".pretune/kept", ".pretune/launch/pretrain.yaml", ".pretune/stack",
    ".pretune/last-error.json", ".pretune/logs/STAGE.log", ".pretune/logs/STAGE.workers.log",
    ".pretune/logs/forkserver.log", ".pretune/override", ".pretune/plots", ".pretune/prefect.db", ".pretune/stages",
    "data/raw/duplicates.jsonl", "data/raw/quarantine.jsonl", "data/raw/rows.parquet", "data/raw/source.json",
    "exported-tf/parity.json", "generation_config.json", "mlartifacts", "mlflow.db", "models/finetuned/adapter",
    "reports/compare.html",
    "reports/data/card.html", "reports/data/card.json", "reports/data/card.md",
    "reports/evaluation/label_efficiency.csv", "reports/studies", "reports/sweeps",
    "reports/evaluation/samples.json", "site/index.html",
}  # fmt: skip
GIVEN = {  # examples of what a user has
    "data/*.txt", "data/mine.jsonl", "data/reviews", "data/reviews.csv", "data/sets", "models/mine", "tokenizer.json",
    "train-v1.1.json", "sweeps/size.yaml",
}  # fmt: skip
NAMES = {"pretune/pipeline"}  # no path: a deployment in Prefect
PROGRAMS = {  # that commands may call besides our own
    "cd", "cp", "curl", "diff", "docker", "export", "git", "hf", "kubectl", "mlflow", "mv", "pip", "prefect", "pytest",
    "ray", "rm", "source", "sudo", "unset", "uv", "zcat",
}  # fmt: skip
SHELL = ("sh", "bash", "shell", "console")
PLACEHOLDER = re.compile(r"…|\.\.\.|[A-Z][A-Z_]+\b|\[.*")
ENDING = re.compile(r"\.(csv|db|html|json|jsonl|lock|md|npz|onnx|parquet|pt2|py|txt|yaml)$")
OPERATOR = re.compile(r"[;|&()]+")
FIELD = "\0"  # in a message, for what is filled in


class Document:
    """A Markdown text in `folder`: its links, headings, inline code and blocks of code."""

    def __init__(self, text: str, folder: Path = ROOT) -> None:
        self.text, self.folder = text, folder
        tokens = MarkdownIt("commonmark").enable("table").parse(text)
        inline = [child for token in tokens if token.type == "inline" for child in token.children]
        self.codes = [token.content for token in inline if token.type == "code_inline"]
        self.links = [link for token in inline if (link := token.attrs.get("href") or token.attrs.get("src"))]
        html = "".join(token.content for token in [*tokens, *inline] if token.type.startswith("html_"))
        self.links += re.findall(r'(?:src|srcset|href)="([^"]+)"', html)
        self.blocks = [(t.info.strip(), t.content) for t in tokens if t.type in {"fence", "code_block"}]
        titles = [after for token, after in itertools.pairwise(tokens) if token.type == "heading_open"]
        words = ["".join(c.content for c in t.children if c.type in {"text", "code_inline"}) for t in titles]
        self.anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in words}

    def commands(self):
        """(command line, whether all of its words have to be known): in blocks for the shell, and in the text."""
        for info, content in self.blocks:
            for line in content.replace("\\\n", " ").splitlines() if info in {"", *SHELL} else ():
                prompt = re.match(r"\w*\$ ", line)
                if info != "console" or prompt:
                    yield line.removeprefix(prompt.group() if prompt else ""), bool(info)
        for code in self.codes:
            if re.match(r"(\.venv/bin/)?(pretune|make|python|dvc) ", code):
                yield code, False


@cache
def page(path: Path) -> Document:
    """A document of the repository."""
    return Document(path.read_text(encoding="utf-8"), path.parent)


@cache
def files() -> set[str]:
    """Every file that git tracks, or would once it is added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return {name for name in names if name and (ROOT / name).is_file()}


@cache
def read(name: str) -> str:
    """The text of a file of the repository; empty if there is none."""
    return (ROOT / name).read_text(encoding="utf-8") if name in files() else ""


@cache
def source() -> str:
    """All our code, as one text."""
    return "\n".join(read(name) for name in sorted(files()) if name.startswith(CODE) or name == "Makefile")


@cache
def yaml() -> str:
    """All our YAML, as one text."""
    return "\n".join(read(name) for name in sorted(files()) if name.endswith(".yaml"))


@cache
def graph() -> dict:
    """The content of dvc.yaml, with the stages that recipes may bring."""
    content = YAML(typ="safe").load(ROOT / "dvc.yaml")
    for path in (ROOT / "examples/graphs").glob("*.yaml"):
        more = YAML(typ="safe").load(path)["stages"]
        content["stages"] |= {name: stage for name, stage in more.items() if "cmd" in stage}
    return content


@cache
def known_paths() -> set[str]:
    """Files of the repository, outputs of stages, what runs make, and the folders around all of these."""
    kinds = ("outs", "metrics", "plots")
    listed = [out for stage in graph()["stages"].values() for kind in kinds for out in stage.get(kind, [])]
    outputs = {out if isinstance(out, str) else next(iter(out)) for out in listed}
    known = files() | outputs | MADE | GIVEN | NAMES
    return known | {parent.as_posix() for name in known for parent in Path(name).parents}


def links(document: Document):
    """Links and images lead to a file, and to a heading in it."""
    for link in document.links:
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (document.folder / path).resolve() if path else None
        if target and not target.exists():
            yield f"{link}: no such file"
        elif anchor and anchor not in (page(target) if target else document).anchors:
            yield f"{link}: no such heading"


def paths(document: Document):
    """Files and folders are those of the repository, or what a run makes."""
    folders = {name.partition("/")[0] for name in known_paths() if "/" in name}
    names = {posixpath.basename(name) for name in known_paths()}
    for code in document.codes:
        path, _, test = code.partition("::")
        path = path.rstrip("/")
        if path not in known_paths():
            path = re.sub(r"\b(STAGE|NAME)\b", "pretrain", path)
        if not re.fullmatch(r"[\w.*/-]+", path):
            continue
        if "/" in path:
            wrong = path.split("/")[0] in folders and path not in known_paths()
        else:
            ending = path.rpartition(".")[2] if "." in path else ""
            wrong = path not in names and (
                ending in {"lock", "py", "toml", "yaml"}
                or (ending in {"html", "json", "jsonl", "md", "npz"} and path not in source())
            )
        if wrong or test not in read(path):
            yield f"`{code}`: no such file"


def trees(document: Document):
    """Blocks called `tree` name files and folders that exist, each with what it is for."""
    for info, content in document.blocks:
        around: list[tuple[int, str]] = []
        for line in content.splitlines() if info == "tree" else ():
            indent, name = re.match(r"( *)(\S+)", line).groups()
            around = [(depth, folder) for depth, folder in around if depth < len(indent)]
            path = "".join([*(folder for _, folder in around), name])
            if path.rstrip("/") not in known_paths() or path.endswith("/") != (ROOT / path).is_dir():
                yield f"{path}: no such file"
            around.append((len(indent), name))


def modules(document: Document):
    """Dotted names are modules and what they define, tags in MLflow, or events that automations in YAML answer."""
    for code in document.codes:
        parent, _, name = code.rpartition(".")
        if not re.fullmatch(r"(cli|flows|tasks|pretune)(\.[A-Za-z_]\w*)+", code) or is_setting(code):
            continue
        is_tag = f'"{code}' in source() or f'"{parent}.{{' in source() or f"[{code}]" in yaml()
        path, around = code.replace(".", "/"), parent.replace(".", "/")
        is_module = f"{path}.py" in files() or (ROOT / path).is_dir() or defines(f"{around}.py", name)
        if not is_tag and not is_module:
            yield f"`{code}`: no such module"


def functions(document: Document):
    """In tables, the name after a file is defined in it."""
    for path, name in re.findall(r"\| `([\w/]+\.py)` \| `(\w+)` \|", document.text):
        if not defines(path, name):
            yield f"`{path}` does not define `{name}`"


def defines(path: str, name: str) -> bool:
    """Whether a file defines a function, a class or a variable."""
    return bool(re.search(rf"^\s*(?:(?:async )?def |class )?{name}\b *[=:(]", read(path), re.MULTILINE))


def is_setting(dotted: str) -> bool:
    """Whether params.yaml has this key; below a mapping that is open, any key will do."""
    model = Params
    for part in dotted.split("."):
        if dict in {model, get_origin(model)}:
            return True
        if not (isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields):
            return False
        model = model.model_fields[part].annotation
        model = get_args(model)[0] if type(None) in get_args(model) else model  # of a section that may be missing
    return True


@cache
def is_key(name: str) -> bool:
    """Whether a word is a key somewhere in our code or in our YAML, and not the former name of one."""
    return name not in RENAMED and bool(re.search(rf"\b{name}: |[\"']{name}[\"':]", source() + yaml()))


def dotted_keys(data: dict, prefix: str = ""):
    """The keys of nested mappings, by dotted name."""
    for key, value in data.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from dotted_keys(value, f"{prefix}{key}.")


def settings(document: Document):
    """Keys of params.yaml and dvc.yaml exist."""
    for code in document.codes:
        match = re.match(r"[a-z_]+(?:\.[a-z_]+)*(?=[:=]|$)", code)
        if code in RENAMED or (match and not ENDING.search(match.group()) and not is_right(match.group(), code)):
            yield f"`{code}`: no such key"
    for info, content in document.blocks:
        data = load_yaml(content) if info in {"", "yaml"} else None
        for key, value in data.items() if isinstance(data, dict) else ():
            if key in Params.model_fields and isinstance(value, dict):
                yield from (f"{dotted}: no such key" for dotted in dotted_keys({key: value}) if not is_setting(dotted))


def is_right(key: str, code: str) -> bool:
    """Whether the key that inline code begins with exists, if it looks like one."""
    first, dot, _ = key.partition(".")
    if first == "clean":
        return is_setting(f"ingest.{key}")
    if first == "stages":
        return key in dotted_keys(graph())
    if dot:
        return first not in Params.model_fields or is_setting(key)
    return not code.startswith(f"{key}: ") or is_key(key)


def load_yaml(text: str):
    """The content, None if it is no YAML."""
    try:
        return YAML(typ="safe").load(text)
    except YAMLError:
        return None


def blocks(document: Document):
    """Python compiles, YAML loads."""
    for info, content in document.blocks:
        if info == "python":
            try:
                compile(content, "example", "exec")
            except SyntaxError as error:
                yield f"python: {error}"
        if info == "yaml" and load_yaml(content) is None:
            yield f"yaml: {content}"


def commands(document: Document):
    """Command lines parse, and call what is there."""
    for line, strict in document.commands():
        lexer = shlex.shlex(re.sub(r"(^|\s)#.*", "", line), posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, ""
        try:
            words = list(lexer)
        except ValueError as error:
            yield f"{line}: {error}"
            continue
        for command in simple_commands(words):
            yield from (f"{line.strip()}: {problem}" for problem in command_problems(command, strict=strict))


def simple_commands(words: list[str]):
    """The commands that operators of the shell join, without redirections and variables."""
    command: list[str] = []
    for word, before in zip([*words, ";"], ["", *words], strict=True):
        if OPERATOR.fullmatch(word):
            yield command
            command = []
        elif not (re.fullmatch("[<>]+", word) or re.fullmatch("[<>]+", before)) and (
            command or not re.match(r"[A-Z_]+=", word)
        ):
            command.append(word)


def command_problems(command: list[str], *, strict: bool):
    """What is wrong with a command; if not `strict`, other programs than our own may be unknown."""
    if not command:
        return
    program, arguments = re.sub(r"^\.venv[\w-]*/bin/", "", command[0]), command[1:]
    if program == "pretune":
        yield from pretune_problems(arguments)
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)
        goals = [argument for argument in arguments if "=" not in argument and not PLACEHOLDER.match(argument)]
        yield from (f"no target {goal}" for goal in goals if goal not in targets)
    elif program in {"python", "python3"}:
        yield from python_problems(arguments)
    elif program == "dvc" and (strict or len(arguments) > 1):
        from dvc.cli.parser import DvcParserError, get_main_parser

        logging.disable()  # its messages go to a stream that an earlier test may have closed
        try:
            get_main_parser().parse_args(arguments)
        except (DvcParserError, SystemExit):
            yield "dvc does not know that"
        finally:
            logging.disable(logging.NOTSET)
    elif strict and program not in {*PROGRAMS, "dvc"}:
        yield f"unknown program {program}"


def pretune_problems(arguments: list[str]):
    """What our own command line refuses."""
    from cli.app import app

    command, name = typer.main.get_command(app), ""
    while hasattr(command, "commands"):
        if hasattr(command, "default_command") and arguments and arguments[0].startswith("--"):
            arguments = [command.default_command, *arguments]
        if not arguments or arguments[0].startswith("-") or PLACEHOLDER.match(arguments[0]):
            return
        name, *arguments = arguments
        if name not in command.commands and hasattr(command, "default_command") and re.search(r"\W", name):
            name, arguments = command.default_command, [name, *arguments]
        if name not in command.commands:
            yield f"no command {name}"
            return
        command = command.commands[name]
    try:
        given = command.make_context(name, [a for a in arguments if not re.fullmatch(r"…|\.\.\.|\[.*\]", a)]).params
    except typer.Exit:  # --help
        return
    except Exception as error:
        if "missing" not in str(error).lower():  # a command may be named without its arguments
            yield str(error)
        return
    keys = [assignment.partition("=")[0] for assignment in given.get("overrides") or ()]
    yield from (f"no setting {key}" for key in keys if not is_setting(key) and not PLACEHOLDER.match(key))
    yield from unknown_stages(given.get("stages") or ())


def unknown_stages(names):
    """Those that dvc.yaml does not have."""
    return (f"no stage {name}" for name in names if name not in graph()["stages"] and not PLACEHOLDER.match(name))


def python_problems(arguments: list[str]):
    """Modules and files that Python would not find, options that a script does not have."""
    match arguments:
        case ["-m", "tasks", *stages]:
            yield from unknown_stages(stages)
        case ["-m", module, *_] if importlib.util.find_spec(module) is None:
            yield f"no module {module}"
        case [file, *options] if file.endswith(".py"):
            if file not in files():
                yield f"no file {file}"
            elif file != "scripts/uv.py":  # which hands its options on
                yield from (f"{file} has no {o}" for o in options if o.startswith("--") and o not in read(file))


@cache
def templates() -> tuple[re.Pattern[str], str]:
    """Every text in the code that could be a message, a line each: as a pattern with any value, and as it is."""
    texts = re.findall(r"(?:error|next|warning): [^\"\n]*", read("Makefile"))
    texts = [re.sub(r"\$\([A-Z]+\)|%[ds]", FIELD, text.replace("\\n", "\n")) for text in texts]
    for name in files():
        if name.startswith(CODE) and name.endswith(".py"):
            texts += [text for node in ast.walk(ast.parse(read(name))) if (text := template(node))]
    lines = {message(line) for text in texts for line in text.splitlines()}
    lines = sorted(line for line in lines if len(re.findall(r"[^\W_]", line)) >= 6)
    patterns = ("(?:" + ".*".join(map(re.escape, line.split(FIELD))) + ")" for line in lines)
    return re.compile("|".join(patterns)), "\n".join(lines)


def template(node: ast.AST) -> str | None:
    """The text of a literal, with a mark for each value that is filled in; None for anything else."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(template(part) or FIELD for part in parts)
        case ast.BinOp(op=ast.Add(), left=left, right=right) if template(left) or template(right):
            return (template(left) or FIELD) + (template(right) or FIELD)
    return None


def message(line: str) -> str:
    """A line without the word that it begins with."""
    return re.sub(r"^\s*(error|next|warning):\s*", "", line).strip()


def messages(document: Document):
    """Lines that begin with `error:`, `next:` or `warning:` are printed by the code; … stands for any value."""
    pattern, lines = templates()
    for line in [*document.codes, *(line for _, content in document.blocks for line in content.splitlines())]:
        if re.match(r"\s*(error|next|warning): ", line):
            parts = message(line).split(": ")  # stage, file and reason may stand in front
            forms = {": ".join(parts[start:]) for start in range(len(parts))}
            quoted = [".*".join(map(re.escape, form.split("…"))) for form in forms]
            if not any(map(pattern.fullmatch, forms)) and not any(re.search(f"(?m)^{q}$", lines) for q in quoted):
                yield f"{line.strip()}: no code prints it"
