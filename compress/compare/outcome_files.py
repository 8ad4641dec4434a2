"""What a gate leaves for machines that build: JUnit XML, and a summary in Markdown."""

from __future__ import annotations

from xml.etree import ElementTree

from compress.compare.gate import Gate
from compress.compare.verdicts import Verdict
from compress.errors import printable

_MARKS = {Verdict.ACCEPT: "✅", Verdict.REGRESSION: "❌", Verdict.UNDECIDED: "❓"}


def junit_text(gate: Gate, *, undecided_passes: bool) -> str:
    """Return JUnit XML: a test case a limit; a regression is a failure, what is not decidable an error or skipped."""
    undecided = "skipped" if undecided_passes else "error"
    counts = {
        "tests": len(gate.checks),
        "failures": sum(check.verdict is Verdict.REGRESSION for check in gate.checks),
        "errors": 0 if undecided_passes else sum(check.verdict is Verdict.UNDECIDED for check in gate.checks),
        "skipped": sum(check.verdict is Verdict.UNDECIDED for check in gate.checks) if undecided_passes else 0,
    }
    attributes = {name: str(count) for name, count in counts.items()}
    suite = ElementTree.Element("testsuite", attributes | {"name": "krimp gate"})
    for check in gate.checks:
        case = ElementTree.SubElement(suite, "testcase", classname="krimp.gate", name=f"{check.name}: {check.limit}")
        message = printable(f"{check.found}. {check.why}")
        tag = {Verdict.REGRESSION: "failure", Verdict.UNDECIDED: undecided}.get(check.verdict)
        if tag is not None:
            ElementTree.SubElement(case, tag, message=message, type=check.verdict.value)
        ElementTree.SubElement(case, "system-out").text = f"{check.verdict.value}: {message}"
    root = ElementTree.Element("testsuites", dict(suite.attrib))
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def summary_text(gate: Gate) -> str:
    """Return the verdict and a table of the limits as Markdown."""
    rows = [
        f"| {_MARKS[check.verdict]} {check.verdict.value} | {check.name} | {_cell(check.limit)} "
        f"| {_cell(check.found)} | {_cell(check.why)} |"
        for check in gate.checks
    ]
    return "\n".join(
        [
            f"### Krimp gate: {gate.verdict.value}",
            "",
            f"`{_code(gate.new.title)}` against `{_code(gate.old.title)}`",
            "",
            "| verdict | what | limit | found (95 % interval) | why |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def plain_text(gate: Gate) -> str:
    """Return a few lines for a terminal; the verdict is the last one."""
    lines = [f"{gate.new.title} against {gate.old.title}"]
    for check in gate.checks:
        lines += [f"  {check.verdict.value:13} {check.name}: {check.found}; {check.limit}", f"{'':16}{check.why}"]
    return "\n".join([*lines, f"verdict: {gate.verdict.value}"])


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _code(text: str) -> str:
    return printable(text).replace("`", "'")
