"""uv, told what this machine tells pip: `.venv/bin/python scripts/uv.py pip install …`. The Makefile installs by it.

It installs for the Python that runs it. uv reads none of pip's settings (environment, pip.conf), so each is handed on
under uv's name, unless that is set already. Without a uv on the machine, pip brings the one of requirements-dev.lock.
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
ENVIRONMENT = Path(sys.executable).parent  # .venv/bin: not resolved, as its Python is a link
GOOD_UV = re.compile(r"uv 0\.(9|[1-9]\d)\.")  # the range of pyproject.toml
STARTED = re.compile(r"\s*(?:Downloading|Building) (\S+)")
ENDED = re.compile(r"\s*(?:Downloaded|Built) (\S+)")
ROUTINE = re.compile(
    r"\s*([-+~] |(Using|Resolved|(Down|Up)load|Build|Built|Prepared|Installed|Uninstalled|Audited|Checked))"
)
TWINS = {
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
    """What pip goes by: its files, then those of `pip install`, then the environment."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True).stdout
    found = dict(re.findall(r"^(.+?)=(.*)$", listed, re.MULTILINE))
    sections = ("global.", "install.", ":env:.")
    return {
        key.removeprefix(section): str(ast.literal_eval(value))
        for section in sections
        for key, value in found.items()
        if key.startswith(section)
    }


def twins(settings: dict[str, str]) -> dict[str, str]:
    """Pip's settings as environment variables of uv."""
    told = {TWINS[key]: " ".join(value.split()) for key, value in settings.items() if key in TWINS}
    if "UV_INDEX" in told:  # pip takes the best version of all indexes, uv that of the first which has the package
        told["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if "UV_FIND_LINKS" in told:  # pip passes over a folder that is not there, uv stops
        places = told["UV_FIND_LINKS"].split()
        there = [
            place for place in places if re.match("https?:", place) or Path(place.removeprefix("file://")).exists()
        ]
        told["UV_FIND_LINKS"] = ",".join(there)
    if "UV_HTTP_TIMEOUT" in told:
        told["UV_HTTP_TIMEOUT"] = str(math.ceil(float(told["UV_HTTP_TIMEOUT"])))
    if bundle := os.environ.get("REQUESTS_CA_BUNDLE"):
        told.setdefault("SSL_CERT_FILE", bundle)
    return {name: value for name, value in told.items() if value}


def find_uv() -> str:
    """Return the uv of this environment, else the machine's, else one that pip brings."""
    own = str(ENVIRONMENT / "uv")
    for candidate in (own, shutil.which("uv")):
        if candidate and shutil.which(candidate):
            said = subprocess.run([candidate, "--version"], check=False, capture_output=True, text=True).stdout
            if GOOD_UV.match(said):
                return candidate
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, "uv", "--constraint", str(ROOT / "requirements-dev.lock")], check=False).returncode:
        sys.exit("error: pip could not bring uv, which installs the rest: see above\nnext:  the same command again")
    return own


def prepare_cache(uv: str, environment: dict[str, str]) -> None:
    """Have uv copy files, or do without a cache, where it would warn or stop."""
    cache = Path(subprocess.run([uv, "cache", "dir"], check=False, stdout=subprocess.PIPE, text=True).stdout.strip())
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        environment["UV_NO_CACHE"] = "1"
        return
    if cache.stat().st_dev != ENVIRONMENT.stat().st_dev:
        environment.setdefault("UV_LINK_MODE", "copy")  # files of another file system cannot be linked


def at_work(lines: list[str]) -> str:
    """Tell which downloads and builds have begun and not ended, or else uv's last line."""
    begun: dict[str, str] = {}
    for line in lines:
        if found := STARTED.match(line):
            begun[found[1]] = line.strip()
        elif found := ENDED.match(line):
            begun.pop(found[1], None)
    return next(iter(begun.values()), lines[-1].strip() if lines else "starting")


def follow(command: list[str], environment: dict[str, str]) -> int:
    """Run uv with a line on what it does: rewritten on a terminal, elsewhere another one every ten seconds."""
    lines: list[str] = []
    ended, began, terminal = threading.Event(), time.monotonic(), sys.stderr.isatty()

    def show(what: str) -> None:
        line = f"  {time.monotonic() - began:3.0f} s  {what}"[: shutil.get_terminal_size().columns - 1]
        print(f"\r\033[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)

    def tick() -> None:
        while not ended.wait(1 if terminal else 10):
            show(at_work(lines))

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
        print("next:  the same command again: what has been fetched is kept", file=sys.stderr)
    return uv.returncode


def main() -> int:
    """Run uv with the arguments given, for this Python."""
    settings = pip_settings()
    told = {name: value for name, value in twins(settings).items() if name not in os.environ}
    environment = {**os.environ, **told}
    uv = find_uv()
    prepare_cache(uv, environment)
    command = [uv, *sys.argv[1:], "--python", sys.executable]
    if settings.get("no-index", "").lower() in {"1", "true", "yes", "on"}:  # the one that uv takes as an argument only
        command.append("--no-index")
    return follow(command, environment)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
