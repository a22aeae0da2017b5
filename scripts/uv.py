"""uv with pip's settings: `.venv/bin/python scripts/uv.py pip install …`. The Makefile installs with it.

It installs for the Python that runs it. uv does not read pip's settings (environment, pip.conf), so each is passed on
under uv's name, unless that is set already. If the machine has no uv, pip installs the one of requirements-dev.lock.
"""

import ast
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = Path(sys.executable).parent  # .venv/bin, not resolved: its Python is a link
GOOD_UV = re.compile(r"uv 0\.(9|[1-9]\d)\.")  # the range of pyproject.toml
STARTED = re.compile(r"\s*(?:Downloading|Building) (\S+)")
ENDED = re.compile(r"\s*(?:Downloaded|Built) (\S+)")
ROUTINE = re.compile(
    r"\s*([-+~] |(Using|Resolved|(Down|Up)load|Build|Built|Prepared|Installed|Uninstalled|Audited|Checked))"
)
UV_NAMES = {  # setting of pip → environment variable of uv
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
}


def pip_settings() -> dict[str, str]:
    """The settings of pip: of its files, then of their `install` sections, then of the environment."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    output = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True).stdout
    settings = dict(re.findall(r"^(.+?)=(.*)$", output, re.MULTILINE))
    sections = ("global.", "install.", ":env:.")
    return {
        key.removeprefix(section): str(ast.literal_eval(value))
        for section in sections
        for key, value in settings.items()
        if key.startswith(section)
    }


def uv_settings(settings: dict[str, str]) -> dict[str, str]:
    """Pip's settings as environment variables of uv."""
    variables = {UV_NAMES[key]: " ".join(value.split()) for key, value in settings.items() if key in UV_NAMES}
    if "UV_INDEX" in variables:  # pip takes the best version of all indexes, uv that of the first with the package
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if "UV_FIND_LINKS" in variables:  # pip ignores a missing folder, uv stops
        places = variables["UV_FIND_LINKS"].split()
        existing = [
            place for place in places if re.match("https?:", place) or Path(place.removeprefix("file://")).exists()
        ]
        variables["UV_FIND_LINKS"] = ",".join(existing)
    if "UV_HTTP_TIMEOUT" in variables:
        variables["UV_HTTP_TIMEOUT"] = str(math.ceil(float(variables["UV_HTTP_TIMEOUT"])))
    if bundle := os.environ.get("REQUESTS_CA_BUNDLE"):
        variables.setdefault("SSL_CERT_FILE", bundle)
    return {name: value for name, value in variables.items() if value}


def find_uv() -> str:
    """Return the uv of this environment, else the machine's, else one that pip installs."""
    own = str(ENVIRONMENT / "uv")
    for candidate in (own, shutil.which("uv")):
        if candidate and shutil.which(candidate):
            version = subprocess.run([candidate, "--version"], check=False, capture_output=True, text=True).stdout
            if GOOD_UV.match(version):
                return candidate
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, "uv", "--constraint", str(ROOT / "requirements-dev.lock")], check=False).returncode:
        sys.exit("error: pip could not install uv, which installs the rest: see above\nnext:  the same command again")
    return own


def prepare_cache(uv: str, environment: dict[str, str]) -> None:
    """Set UV_LINK_MODE or UV_NO_CACHE if uv would otherwise warn or stop."""
    cache = Path(subprocess.run([uv, "cache", "dir"], check=False, stdout=subprocess.PIPE, text=True).stdout.strip())
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        environment["UV_NO_CACHE"] = "1"
        return
    if cache.stat().st_dev != ENVIRONMENT.stat().st_dev:
        environment.setdefault("UV_LINK_MODE", "copy")  # files of another file system cannot be linked


def current_work(lines: list[str]) -> str:
    """Return a download or build that has started and not ended, else uv's last line."""
    started: dict[str, str] = {}
    for line in lines:
        if match := STARTED.match(line):
            started[match[1]] = line.strip()
        elif match := ENDED.match(line):
            started.pop(match[1], None)
    return next(iter(started.values()), lines[-1].strip() if lines else "starting")


def follow(command: list[str], environment: dict[str, str]) -> int:
    """Run uv and show what it does: on a terminal one line that is rewritten, elsewhere a line every ten seconds."""
    lines: list[str] = []
    ended, start, terminal = threading.Event(), time.monotonic(), sys.stderr.isatty()

    def show(text: str) -> None:
        line = f"  {time.monotonic() - start:3.0f} s  {text}"[: shutil.get_terminal_size().columns - 1]
        print(f"\r\033[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)

    def tick() -> None:
        while not ended.wait(1 if terminal else 10):
            show(current_work(lines))

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as uv:
        for line in uv.stderr or ():
            lines.append(line.rstrip())  # noqa: PERF401  one by one: the other thread reads them
    ended.set()
    ticker.join()
    if terminal:
        print("\r\033[K", end="", file=sys.stderr)
    for line in lines:
        if not ROUTINE.match(line):
            print(line, file=sys.stderr)
    if uv.returncode:
        print("next:  the same command again: downloads are kept", file=sys.stderr)
    return uv.returncode


def main() -> int:
    """Run uv with the arguments given, for this Python."""
    settings = pip_settings()
    variables = {name: value for name, value in uv_settings(settings).items() if name not in os.environ}
    environment = {**os.environ, **variables}
    uv = find_uv()
    prepare_cache(uv, environment)
    arguments = sys.argv[1:]
    own = 2 if arguments[:2] == ["tool", "run"] else len(arguments)  # what follows is the tool's
    command = [uv, *arguments[:own], "--python", sys.executable, *arguments[own:]]
    if settings.get("no-index", "").lower() in {"1", "true", "yes", "on"}:  # uv takes it as an argument only
        command.append("--no-index")
    return follow(command, environment)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
