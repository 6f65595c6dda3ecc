"""Fills in Jinja templates: the text files of a project, and HTML pages in the style of all pages."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.plotting import theme

if TYPE_CHECKING:
    from jinja2 import Environment


def page(template: Path, **values: Any) -> str:
    """Return an HTML page; text is escaped, and a missing value is an error.

    Args:
        template: it takes `css` (the style sheet), `light` and `dark` (its colours), and `values`.
    """
    colours = {mode: theme.css_variables(mode) for mode in ("light", "dark")}
    environment = templates(template.parent, autoescape=True)
    return environment.get_template(template.name).render(css=theme.style_sheet(), **colours, **values)


def templates(folder: Path, *, autoescape: bool = False) -> "Environment":
    """Return the templates of a folder; a missing value is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
