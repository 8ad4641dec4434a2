"""Tables of what the parts of a network can bear: a line a part, the steps beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from compress.number_text import DASH, share_text
from compress.report.sensitivity import TITLES, Sensitivity, SensitivityRow
from compress.sensitivity.strongest import strongest

Table = tuple[str, list[str], list[list[str]]]


def sensitivity_note(found: Sensitivity) -> str:
    """Return in a sentence or two what was measured on what."""
    text = (
        f"each part of `{found.of}` changed alone, nothing trained. Error: relative L2 error of the raw outputs on "
        f"{found.images} images of `train`, root mean square over the outputs."
    )
    if found.metric is not None and found.reference is not None:
        text += (
            f" Loss: points of {found.metric} on {found.score_images} images of `{found.split}` "
            f"({100 * found.reference:.1f} before) by the strongest step, with the 95 % paired bootstrap interval."
        )
    elif found.split is not None:
        text += f" No object in the images of `{found.split}` that were scored: no loss is known."
    text += (
        f" Channels go by the importance {found.importance}, without new batch norm statistics; weights are rounded to "
        "the nearest. Coded weights: what all weights take as integers of 8 bits, ideally coded."
    )
    left = "; ".join(f"`{one.part}`: {one.reason}" for one in found.not_measured)
    return f"{text} Left alone: {left}." if left else text


def sensitivity_tables(found: Sensitivity) -> list[Table]:
    """Return title, head and lines of each kind of step that was tried, parts in the order of the network."""
    return [
        (f"{title[0].upper()}{title[1:]}", *_table(rows))
        for what, title in TITLES.items()
        if (rows := found.of_kind(what))
    ]


def _table(rows: Sequence[SensitivityRow]) -> tuple[list[str], list[list[str]]]:
    removes = rows[0].what == "channels"
    texts = {row.amount: row.amount_text for row in sorted(rows, key=lambda row: row.amount, reverse=not removes)}
    freed = {"MACs": "macs_freed", "params": "params_freed"} if removes else {}
    freed |= {} if rows[0].what == "activations" else {"coded weights": "bytes_freed"}
    head = ["part", *(["channels"] if removes else []), *(f"error, {text}" for text in texts.values())]
    head += ["loss of the strongest", *(f"frees of {name}" for name in freed)]
    lines = []
    for most in strongest(rows):
        errors = {row.amount: row for row in rows if row.part == most.part}
        line = [most.part, *([str(most.width)] if removes else [])]
        line += [_error(errors[amount]) if amount in errors else DASH for amount in texts]
        lines.append([*line, most.cost_text, *(share_text(getattr(most, field)) for field in freed.values())])
    return head, lines


def _error(row: SensitivityRow) -> str:
    return "no numbers" if row.error is None else share_text(row.error)
