"""Templates filled in: jinja2, which torch needs as well, so that it is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: The templates of reports and pictures.
TEMPLATES = Path(__file__).with_name("templates")


def filled(template: str, facts: Mapping[str, Any], folder: Path = TEMPLATES) -> str:
    """The text of a template, filled in; an unknown name in it is an error. HTML and SVG are escaped.

    >>> filled("timeline.svg.j2", {"runs": []})
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    markup = ".svg." in template or ".html." in template
    environment = Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=markup,
    )
    return environment.get_template(template).render(facts)
