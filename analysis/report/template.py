"""Templates of pages, and what stands in them as it is."""

import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "templates"


def template(name: str) -> Any:
    """Return a template of jinja2's by the name of its file; text that is put in is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = breakable
    return environment.get_template(name)


def breakable(text: str) -> Any:
    """Return the text escaped, with a line break allowed after each comma."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r",(?=\S)", ",<wbr>", str(escape(text))))


def asset(name: str) -> Any:
    """Return the text of a style sheet or a script, to stand in a page as it is."""
    from markupsafe import Markup

    return Markup((FOLDER / name).read_text(encoding="utf-8"))
