"""Hooks of MkDocs: pages that come from elsewhere in the repository, and links that lead there.

A page in docs/ links to files of the repository, such as `../benchmarks/README.md` and `../conf/backbone`. On
the site, the link leads to the page made from that file, to a section of the reference, or to a copy.
"""

import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # which has no package that could take another's place

from docs.site import commands_page, config_page, gallery_page  # noqa: E402

import frostline  # noqa: E402

REPOSITORY_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/results/README.md": "benchmark-results.md",
}
"""Page of the repository outside docs/ → page of the site."""
SECTIONS = {"src/frostline/schema": "reference/config.md"} | {
    f"conf/{group}": f"reference/config.md#{group}" for group in config_page.GROUPS
}
"""Folder → where the site describes it."""
PYTHON = """\
# Python

```python
import frostline as fl
```

{names}
"""
LINK = re.compile(r"\]\(([^)\s]+)\)")
MERMAID = re.compile(r"```mermaid\n(.*?)```\n", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and what all pages load."""
    pages = {name: (ROOT / path).read_text(encoding="utf-8") for path, name in REPOSITORY_PAGES.items()}
    pages["reference/commands.md"] = commands_page.page()
    pages["reference/config.md"] = config_page.page()
    pages["reference/python.md"] = python_page()
    pages["gallery.md"] = gallery_page.page()
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    for name in gallery_page.names():
        files.append(File.generated(config, f"schedules/gallery/{name}.svg", content=gallery_page.draw(name)))
    for name in ("iframe-worker.js", "style.css"):
        files.append(File.generated(config, name, abs_src_path=str(Path(__file__).with_name(name))))
    return files


def python_page() -> str:
    """Return a page with the signature and docstring of every public name."""
    public = [name for name in frostline.__all__ if not name.startswith("__")]
    names = sorted(public, key=lambda name: name[0].isupper())  # functions first
    return PYTHON.format(names="\n\n".join(f"::: frostline.{name}" for name in names))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Redirect the links of a page to the site's pages, and write diagrams as text."""
    site = page.file.src_uri
    origin = {new: old for old, new in REPOSITORY_PAGES.items()}.get(site, f"docs/{site}")
    if page.file.generated_by and site not in REPOSITORY_PAGES.values():
        origin = f"docs/{site}"

    def redirected(match: re.Match[str]) -> str:
        path, mark, heading = match[1].partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return match[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
        target = _on_site(place, config, files)
        own_heading = "#" in target
        relative = posixpath.relpath(target, posixpath.dirname(site) or ".")
        return f"]({relative})" if own_heading else f"]({relative}{mark}{heading})"

    return MERMAID.sub(_as_text, LINK.sub(redirected, markdown))


def _on_site(place: str, config: MkDocsConfig, files: Files) -> str:
    """Return where a path of the repository is on the site; other files are copied."""
    place = place.rstrip("/")
    if place in REPOSITORY_PAGES:
        return REPOSITORY_PAGES[place]
    if place in SECTIONS:
        return SECTIONS[place]
    if place.startswith("docs/"):
        return place.removeprefix("docs/")
    source = ROOT / place
    copy = f"files/{place}.txt" if source.suffix in ("", ".py", ".yaml") else f"files/{place}"
    if source.is_file() and not files.get_file_from_path(copy):
        file = File.generated(config, copy, abs_src_path=str(source), inclusion=InclusionLevel.INCLUDED)
        files.append(file)
    return copy


def _as_text(match: re.Match[str]) -> str:
    """Return a Mermaid diagram, whose library would come over the network, as lines of text."""
    arrows = re.findall(r"^ *(\w+) (-->|-\.->) (\w+)$", match[1], re.MULTILINE)
    chain = [arrows[0][0], *(target for _, arrow, target in arrows if arrow == "-->")]
    libraries = [f"{package} ⇢ {library}" for package, arrow, library in arrows if arrow != "-->"]
    return "```text\n" + "\n".join([" → ".join(chain), *libraries]) + "\n```\n"
