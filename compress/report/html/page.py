"""The page: what the report holds, laid out by the template, with styles, script and pictures inside."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from compress.breakdown import Breakdown
from compress.errors import printable
from compress.number_text import size_text
from compress.report.document import Document
from compress.report.html import accuracy_charts, charts, network_charts, summary, tables
from compress.report.html.figure import Figure
from compress.report.html.pictures import compared_pictures, picture_uri
from compress.report.looks import looks_sentence
from compress.report.markdown import summary_sentence
from compress.report.sensitivity_table import sensitivity_note

TEMPLATES = Path(__file__).parent / "templates"


def render_page(document: Document, folder: Path, *, beside: Sequence[Document] = ()) -> str:
    """Return the page as HTML that needs nothing else.

    Args:
        document: the report.
        folder: where its pictures lie; those that do not are left out.
        beside: reports of other runs, drawn into the chart of cost and accuracy.
    """
    import jinja2

    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    environment.filters["printable"] = printable
    content = _content(document, folder, beside)
    scripts = [_library(), (TEMPLATES / "page.js").read_text(encoding="utf-8")]
    return environment.get_template("page.html.j2").render(
        **content,
        style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        scripts=scripts,
        policy=_policy(scripts),
        specs=script_json({figure.name: figure.spec for figure in content["figures"]}),
    )


def _policy(scripts: Sequence[str]) -> str:
    """Return the content security policy: nothing is loaded, and no script runs but these."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        f"script-src {allowed}"
    )


def script_json(value: Any) -> str:
    r"""Return JSON that can stand in a <script>: no tag, comment or line end of a stranger's name ends it.

    >>> print(script_json("</script>"))
    "\u003c/script\u003e"
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII: U+2028 is written as \u2028
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version="6.4")
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _content(document: Document, folder: Path, beside: Sequence[Document]) -> dict[str, Any]:
    start, final = document.row(document.float_label), document.row(document.final_label)
    made_of = _ordered(document)
    pictures, left_out = compared_pictures(document, folder)
    groups: dict[str, list[Figure | None]] = {
        "tradeoff": [*charts.pareto(document, beside)],
        "stages": [*charts.stages(document)],
        "classes": [accuracy_charts.by_class(start, final), accuracy_charts.by_size(start, final)]
        if start and final
        else [],
        "curves": [*accuracy_charts.precision_recall(made_of)],
        "scores": [*accuracy_charts.score_histograms(made_of)],
        "errors": [accuracy_charts.error_kinds(made_of)],
        "network": [network_charts.layer_bars(document.layers)],
        "training": [*network_charts.trainings(_in_order(document, document.histories))],
    }
    drawn = {name: [one for one in group if one is not None] for name, group in groups.items()}
    recipe = summary.recipe_text(document)
    ends = (document.float_label or "", document.final_label or "")
    return {
        "document": document,
        "sentence": summary_sentence(document).replace("`", ""),
        "tiles": summary.tiles(document),
        "limits": summary.limits(document),
        "command": f"krimp run {document.name}.yaml",
        "recipe": recipe,
        "recipe_uri": "data:text/yaml;charset=utf-8," + quote(recipe),
        "pictures": pictures,
        "pictures_left_out": left_out,
        "losses": _losses(made_of, *ends),
        "drawn": drawn,
        "figures": [figure for group in drawn.values() for figure in group],
        "tables": {
            "models": tables.models_table(document),
            "classes": tables.classes_table(start, final) if start and final else None,
            "errors": tables.errors_table(made_of),
            "images": tables.images_table(*ends, made_of),
            "layers": tables.layers_table(document.layers),
            "forecast": tables.forecast_table(document),
            "latency": tables.latency_tables(document),
            "run": tables.run_table(document),
            "looks": tables.looks_table(document),
            "sensitivity": tables.sensitivity_html_tables(document),
        },
        "left_out": _left_out(document),
        "looks": looks_sentence(document.looks).replace("`", ""),
        "sensitivity": [sensitivity_note(found).replace("`", "") for found in document.sensitivities.values()],
        "sensitivity_pictures": [
            (name, uri)
            for name in document.charts
            if "_sensitivity_" in name and (uri := picture_uri(folder / Path(name).name))
        ],
        "environment": _environment(document),
        "score_threshold": next((one.score_threshold for one in made_of.values()), None),
        "iou": next((one.iou_threshold for one in made_of.values()), None),
    }


def _ordered(document: Document) -> dict[str, Breakdown]:
    """Return what scores are made of, the float model first and the final one last."""
    ends = (document.float_label, document.final_label)
    labels = sorted(document.breakdowns, key=lambda label: (label != ends[0], label == ends[1]))
    return {label: document.breakdowns[label] for label in labels}


def _in_order(document: Document, by_label: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept by label in the order of the run; JSON sorts it by name."""
    order = [stage.label for stage in document.stages]
    return {
        label: by_label[label] for label in sorted(by_label, key=lambda one: order.index(one) if one in order else -1)
    }


def _losses(made_of: Mapping[str, Breakdown], before: str, after: str) -> dict[str, dict[str, float]]:
    """Return image -> what pictures are sorted by: F1 lost, objects missed and wrong detections of the final model."""
    if before not in made_of or after not in made_of:
        return {}
    first = {one.name: one for one in made_of[before].images}
    return {
        Path(one.name).name: {
            "lost": round(first[one.name].f1 - one.f1, 4),
            "missed": one.missed,
            "wrong": one.wrong,
            "objects": one.objects,
            "before_missed": first[one.name].missed,
            "before_wrong": first[one.name].wrong,
        }
        for one in made_of[after].images
        if one.name in first
    }


def _left_out(document: Document) -> list[tuple[str, str, str, list[str]]]:
    """Return stage, what, reason and the layers that share it; one that runs on several levels once."""
    key = lambda entry: (entry.stage, entry.what, entry.reason)  # noqa: E731
    return [
        (*of, list(dict.fromkeys(re.sub(r"(/[A-Za-z]+)_\d+$", r"\1", entry.layer) for entry in group)))
        for of, group in groupby(sorted(document.left_out, key=key), key=key)
    ]


def _environment(document: Document) -> list[tuple[str, str]]:
    machine = dict(document.environment)
    versions = machine.pop("versions", {})
    lines = [
        (name.replace("_", " ").removesuffix(" bytes"), _plain(name, value))
        for name, value in machine.items()
        if value is not None
    ]
    lines += [
        ("seed", str(document.seed)),
        ("recipe digest", document.recipe_digest),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return lines


def _plain(name: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return size_text(value) if name.endswith("_bytes") else str(value)
