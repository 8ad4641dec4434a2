"""The command `import`: weights of another project become a safetensors file that recipes can name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compress.cli.options import ForceOption
from compress.detector import ImportsWeights
from compress.errors import DetectorError
from compress.outputs import Outputs


def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Weights of another project.", show_default=False)],
    detector: Annotated[str, typer.Option("--detector", metavar="NAME", help="Plug-in that knows the format.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Safetensors file to write.")],
    force: ForceOption = False,
) -> None:
    """Convert foreign weights to the format of a plug-in.

    Nothing in the file is executed. The output appears whole or not at all.

    Example: krimp import --detector dcfl epoch_12.pth -o dcfl.safetensors
    """
    from compress.plugins import check_frameworks, find_plugin

    plugin = find_plugin(detector)
    if not issubclass(plugin, ImportsWeights):
        raise DetectorError(
            f"plug-in {detector!r} imports no foreign weights: it has no import_checkpoint. Choose another plug-in."
        )
    if not file.is_file():
        raise DetectorError(f"{file}: there is no such file, expected weights. Correct the path.")
    if out.exists() and out.samefile(file):
        raise DetectorError(f"{out}: --out is the input file, which would be lost. Choose another name.")
    outputs = Outputs("import", force=force, error=DetectorError)
    outputs.claim([out])
    check_frameworks(plugin)
    from safetensors.torch import save_file

    tensors = plugin.import_checkpoint(file)
    with outputs.file(out) as written:
        save_file(tensors, written.name)
    count = sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())
    print(f"{out}: {len(tensors)} tensors, {count:,} numbers")
