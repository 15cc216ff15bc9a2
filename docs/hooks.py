"""Pages of the documentation that are made of other files of the repository.

The README, CONTRIBUTING, the changes, the benchmarks and the examples have a page each. Links
between files of the repository become links between pages; a link to a file that has no page
becomes plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

#: Page -> the file that it is made of.
MADE_OF = {
    "index.md": "README.md",
    "benchmarks.md": "benches/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "examples.md": "examples/README.md",
}

_ROLE = re.compile(r":(?:attr|class|func|meth|mod):<code>~?")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made of other files."""
    for page, source in MADE_OF.items():
        text = _linked((ROOT / source).read_text(), source, page)
        if page == "examples.md":
            text += "".join(map(_program, sorted((ROOT / "examples").glob("*.py"))))
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Rewrites the links of pages that are files of their own."""
    path = page.file.src_uri
    return markdown if path in MADE_OF else _linked(markdown, f"docs/{path}", path)


def on_page_content(html: str, **_: Any) -> str:
    """Drops the roles of docstrings, such as ``:class:``, which Markdown does not know."""
    return _ROLE.sub("<code>", html)


def _linked(text: str, source: str, page: str) -> str:
    """A file's text with links to pages.

    Args:
        text: Markdown.
        source: the file, relative to the repository.
        page: the page that it becomes, relative to ``docs/``.
    """
    pages = {of: to for to, of in MADE_OF.items()}

    def replaced(link: re.Match[str]) -> str:
        label, target = link.groups()
        if re.match(r"[a-z]+:|#", target):
            return link[0]
        file, _, anchor = target.partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), file))
        anchor = f"#{anchor}" if anchor else ""
        if file.startswith("examples/") and file.endswith(".py") and file.count("/") == 1:
            file, anchor = "examples/README.md", "#" + posixpath.basename(file).replace(".", "")
        to = pages.get(file, file.removeprefix("docs/") if file.startswith("docs/") else None)
        if to is None:
            return label
        return f"[{label}]({posixpath.relpath(to, posixpath.dirname(page) or '.')}{anchor})"

    return _LINK.sub(replaced, text)


def _program(path: Path) -> str:
    """A section with a program."""
    return f"\n## {path.name}\n\n```python\n{path.read_text().rstrip()}\n```\n"
