"""pydocs: the documentation of Python itself, as a data set that needs no network.

Its texts are the docstrings of the standard library (sources are parsed, never imported), those of compiled modules,
and the paragraphs of the language reference (`pydoc_data.topics`): about 12,000 distinct texts. The label is the
library area of a docstring's module; the language reference and modules of no area have none. The rows depend only on
the Python version and on how Python was packaged.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from importlib.machinery import ExtensionFileLoader
from pathlib import Path

from pretune.data.rows import Row

MIN_CHARACTERS = 20
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data", "__pycache__"}
AREAS = {
    "concurrency": """_thread _threading_local asynchat asyncio asyncore concurrent contextvars multiprocessing
        queue sched select selectors signal socketserver subprocess threading""",
    "internet": """cgi cgitb email ftplib html http imaplib ipaddress mailbox mailcap mimetypes netrc nntplib
        nturl2path poplib smtpd smtplib socket ssl telnetlib urllib uuid webbrowser wsgiref xmlrpc""",
    "gui": "curses idlelib tkinter turtle turtledemo",
    "devtools": """abc ast bdb cProfile cmd code codeop compileall dataclasses dis distutils doctest ensurepip imp
        importlib inspect keyword lib2to3 modulefinder pdb pickletools pkgutil platform profile pstats py_compile
        pyclbr pydoc rlcompleter runpy site symtable sysconfig tabnanny timeit token tokenize trace traceback
        tracemalloc types typing unittest venv warnings zipapp zipimport""",
    "data": """_collections_abc _pydecimal _strptime array base64 binascii bisect calendar cmath codecs collections
        configparser copy copyreg csv datetime decimal difflib encodings enum fractions functools graphlib hashlib
        heapq hmac itertools json math numbers operator pickle plistlib pprint quopri random re reprlib statistics
        string struct textwrap tomllib weakref xml zoneinfo""",
    "files": """_compression _pyio bz2 dbm filecmp fileinput fnmatch genericpath glob gzip io linecache logging lzma
        ntpath os pathlib posixpath shelve shutil sqlite3 stat tarfile tempfile zipfile zlib""",
}
AREA_OF = {module: area for area, modules in AREAS.items() for module in modules.split()}


def collect() -> list[Row]:
    """The rows of this interpreter in a fixed order, each text once, with a label if any copy has one."""
    rows: dict[str, Row] = {}
    for row in (*_source_docstrings(), *_compiled_docstrings(), *_language_reference()):
        first = rows.setdefault(row["text"], row)
        if "label" not in first and "label" in row:
            rows[row["text"]] = row
    return list(rows.values())


def version() -> str:
    """The interpreter that the rows come from, as `cpython 3.12.1`."""
    return f"{sys.implementation.name} {sys.version.split()[0]}"


def area_of(module: str) -> str | None:
    """The library area of a top-level module; that of `_socket` is that of `socket`."""
    return AREA_OF.get(module) or AREA_OF.get(module.lstrip("_"))


def _source_docstrings() -> Iterator[Row]:
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if SKIPPED_FOLDERS.intersection(relative.parts):
            continue
        try:
            with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # lib2to3 has files that are invalid on purpose
            continue
        name = ".".join(relative.with_suffix("").parts)
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _document(ast.get_docstring(node), name)


def _compiled_docstrings() -> Iterator[Row]:
    for name in sorted(sys.stdlib_module_names):
        if not _is_compiled(name):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                module = importlib.import_module(name)
        except ImportError:  # built without an optional system library
            continue
        yield from _document(module.__doc__, name)
        for _, member in sorted(vars(module).items()):
            if _defined_in(member, name):
                yield from _document(_doc(member), name)
                if inspect.isclass(member):
                    for _, attribute in sorted(vars(member).items()):
                        yield from _document(_doc(attribute), name)


def _is_compiled(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    if spec is None or name.startswith(("_test", "_xx", "xx")):
        return False
    return spec.origin == "built-in" or isinstance(spec.loader, ExtensionFileLoader)


def _defined_in(member: object, module: str) -> bool:
    """Whether `member` is defined in the module, and not only re-exported."""
    home = getattr(member, "__module__", None) or module
    return isinstance(home, str) and home.partition(".")[0].lstrip("_") == module.lstrip("_")


def _doc(member: object) -> str | None:
    """The docstring of `member` itself: a constant would have that of its type."""
    if inspect.isroutine(member) or inspect.isclass(member) or inspect.isdatadescriptor(member):
        text = getattr(member, "__doc__", None)
        return inspect.cleandoc(text) if isinstance(text, str) else None
    return None


def _language_reference() -> Iterator[Row]:
    from pydoc_data.topics import topics

    for topic, text in sorted(topics.items()):
        for paragraph in text.split("\n\n"):
            yield from _document(paragraph, f"topics:{topic}")


def _document(text: str | None, origin: str) -> Iterator[Row]:
    text = (text or "").strip()
    if len(text) >= MIN_CHARACTERS:
        area = area_of(origin.partition(".")[0])
        yield {"text": text, **({"label": area} if area else {}), "origin": origin}
