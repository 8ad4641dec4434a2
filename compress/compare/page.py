"""A comparison as one HTML file: no network, no script, names of others escaped."""

from __future__ import annotations

from compress.compare.comparison import Comparison
from compress.compare.markdown import sentences
from compress.errors import StageError
from compress.number_text import DASH, fixed_text, interval_text, size_text

TEMPLATE = "compare.html.j2"


def render_page(found: Comparison) -> str:
    """Return the comparison as HTML.

    Raises:
        StageError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError as error:
        raise StageError(
            "an HTML page needs the package 'jinja2'. Install it (pip install jinja2), or write .md."
        ) from error
    environment = Environment(
        loader=PackageLoader("compress.compare"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"size": size_text, "fixed": fixed_text, "interval": interval_text}
    return environment.get_template(TEMPLATE).render(found=found, sentences=sentences, dash=DASH)
