"""Called by MkDocs: the root's Markdown files become pages of the site, links into the code become text."""  # noqa: INP001

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "README.zh.md")
LINK = re.compile(r"(!?)\[([^\]]+)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add every decision to the navigation."""
    explanation = next(section for part in config.nav or [] for name, section in part.items() if name == "Explanation")
    decisions = next(entry["Decisions"] for entry in explanation if "Decisions" in entry)
    decisions += sorted(f"decisions/{path.name}" for path in Path(config.docs_dir, "decisions").glob("[0-9]*.md"))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root folder."""
    for name in ROOT_PAGES:
        content = (Path(config.docs_dir).parent / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Rewrite links that leave docs/, which are right on GitHub and have no target on the site."""
    source = page.file.src_uri
    here = "." if source in ROOT_PAGES else posixpath.join("docs", posixpath.dirname(source))

    def rewritten(link: re.Match[str]) -> str:
        image, text, path, anchor = link.groups(default="")
        target = posixpath.normpath(posixpath.join(here, path))
        if target == "README.md" and source == "index.md":
            return text  # the start page is the site's README
        if target == "README.md":
            target, anchor = "docs/index.md", ""
        if target in ROOT_PAGES:
            target = f"docs/{target}"
        if not target.startswith("docs/"):
            return link.group() if image else text
        link_path = posixpath.relpath(target, posixpath.join("docs", posixpath.dirname(source)))
        return f"{image}[{text}]({link_path}{anchor})"

    return LINK.sub(rewritten, markdown)
