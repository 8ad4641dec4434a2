"""The commands `pack`, `unpack`, `verify` and `inspect`; `compress.cli.main` mounts `app`'s commands at top level."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from compress import codec
from compress.cli.json_document import JsonOption, only_documents, print_document
from compress.cli.options import ForceOption
from compress.codec.files.named_tensors import network_name
from compress.codec.files.network_folder import INDEX_SUFFIX, find_network
from compress.codec.files.packed_file import Progress
from compress.errors import CodecError, printable, printable_lines
from compress.names_file import names_beside, read_names
from compress.outputs import Outputs, make_folder

app = typer.Typer(help="Pack networks into .krimp files and back.", no_args_is_help=True)

_MaxBytes = Annotated[
    int | None, typer.Option("--max-bytes", min=0, help="Refuse a file whose original is larger than this.")
]
_Output = Annotated[Path | None, typer.Option("--out", "-o", help="File to write; by default beside the input.")]


@app.command()
def pack(
    file: Annotated[
        Path, typer.Argument(help="An ONNX or safetensors file of any origin, the index of shards, or a folder.")
    ],
    out: _Output = None,
    force: ForceOption = False,
) -> None:
    """Pack a network into a .krimp file.

    Weights are Huffman-coded (by table ANS where that is smaller), the rest is compressed by lzma. External data
    of an ONNX model is packed with it. Before the file appears it is unpacked
    once and compared with the original, byte for byte. Quantized weights shrink most: sparse int8 to a
    fifth and less, float32 by about 15 %.

    What a file is tells its content, not its name. Of a folder (a repository of Hugging Face or its cache, say) the one
    network in it is packed: an ONNX file, a safetensors file, or its shards with their index.

    Example: krimp pack model.onnx     (writes model.krimp; model.safetensors becomes model.safetensors.krimp)
    """
    with _errors():
        network = find_network(file) if file.is_dir() else file
        if codec.is_packed(network):
            raise CodecError(f"{file}: byte 0: is a .krimp file already. Unpack it, or name an ONNX file.")
        target = out or _packed_name(file)
        _refuse_same(network, target)
        outputs = Outputs("pack", force=force, error=CodecError)
        outputs.claim([target])
    with _errors(), _progress(f"pack {file.name}") as progress:
        facts = codec.pack_file(network, target, progress)
        outputs.wrote(target)
    if network is not file:
        typer.echo(f"packed {printable(network)}, the network in the folder; its other files stay where they are")
    weights = (
        f", {facts.bits_per_weight:.3f} bits a weight (order-0 entropy {facts.entropy_bits_per_weight:.3f})"
        if facts.weights
        else ""
    )
    typer.echo(
        f"{printable(target)}: {facts.packed_bytes:,} bytes from {facts.original_bytes:,}"
        f" ({facts.compression_ratio:.2f}x smaller){weights}; unpacks to identical bytes"
    )


@app.command()
def unpack(
    file: Annotated[Path, typer.Argument(help="A .krimp file.")],
    out: _Output = None,
    into: Annotated[
        Path | None, typer.Option("--into", metavar="DIR", help="Folder for all files, made if it is not there.")
    ] = None,
    force: ForceOption = False,
    max_bytes: _MaxBytes = None,
) -> None:
    """Write the original file of a .krimp file, identical to the last byte.

    The output is checked against the SHA-256 inside and appears whole or not at all. Files that belong to the network
    (external data, shards) are listed first and written beside it; hidden ones, and those that lead out of the folder,
    are refused. Unpack a file of a stranger's into a folder of its own. Without --max-bytes a file that declares more
    than 1 GiB, and more than 256 times its size, is refused.

    \b
    krimp unpack model.krimp -o model.onnx
    krimp unpack from_somebody.krimp --into looked_at
    """  # noqa: D301 click ends no line after \b
    with _errors(), _progress(f"unpack {file.name}") as progress:
        _refuse_folder(file)
        if out is not None and into is not None:
            raise CodecError(f"--out {out} and --into {into}: expected one of them. Leave the other out.")
        outputs = Outputs("unpack", force=force, error=CodecError)
        with codec.PackedFile(file) as packed:
            name, sides = original_name(packed), packed.side_files
            digest = None if sides else packed.header.sha256.hex()
        target = out or (into or file.parent) / name
        _refuse_same(file, target)
        outputs.claim([target], digest)
        if sides:
            listed = "".join(f"  {printable(side.name)}  {side.num_bytes:,} bytes\n" for side in sides)
            typer.echo(f"{printable(target)} and beside it in {printable(target.parent)}:\n{listed}", nl=False)
        if into is not None:
            make_folder(into, CodecError)
        limit = codec.SANE_BYTES if max_bytes is None else max_bytes
        size = codec.unpack_file(file, target, progress, may_replace=outputs.may_replace, max_bytes=limit)
        for path in (target, *(target.parent / side.name for side in sides)):
            outputs.wrote(path)
    typer.echo(f"{printable(target)}: {size:,} bytes, hash matches")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A .krimp file.")],
    as_json: JsonOption = False,
    max_bytes: _MaxBytes = None,
) -> None:
    """Prove a .krimp file against the checksums and the hash inside it; the original is not needed.

    Exit code 0: every tensor decodes and the SHA-256 of the whole matches. Exit code 5: the
    message names the byte and the reason.

    --json prints format_version, file, packed_bytes, original_bytes, sha256 (of the original) and intact (true).

    Example: krimp verify model.krimp
    """
    with _errors(), _progress(f"verify {file.name}") as progress, only_documents(as_json):
        _refuse_folder(file)
        codec.verify_file(file, progress, max_bytes=max_bytes)
    if as_json:
        print_document(_verified(file))
    else:
        typer.echo(f"{printable(file)}: whole and intact")


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A .krimp, ONNX or safetensors file, or a folder with one.")],
    as_json: JsonOption = False,
    max_bytes: _MaxBytes = None,
    names: Annotated[
        Path | None, typer.Option(help="names.json of a network with short names; found by itself beside the file.")
    ] = None,
) -> None:
    """List the tensors of a .krimp file: type, bit width, zeros, entropy, coded bits, coder, share.

    Of a plain ONNX or safetensors file it lists all tensors as they are stored.

    'entropy' is the order-0 entropy of one element, the limit for coders that look at one weight at a time;
    'coded' is what the file spends. The rest of the file is the network's graph, small tensors and code tables.

    --json prints a list: of each tensor name, dims, data_type, elements, bit_width, zeros, entropy_bits_per_weight,
    bits_per_weight, original_bytes, packed_bytes, share and coder.

    Example: krimp inspect model.krimp --json
    """
    with _errors(), _progress(f"inspect {file.name}") as progress, only_documents(as_json):
        full = names_beside(file) if names is None else read_names(names)
        facts = [
            replace(entry, name=full.get(entry.name, entry.name))
            for entry in codec.inspect_file(file, progress, max_bytes=max_bytes)
        ]
    if as_json:
        print_document([asdict(entry) for entry in facts])
        return
    typer.echo(f"{'share':>6} {'bytes':>10} {'coded':>7} {'entropy':>7} {'zeros':>6} bits type     shape name [coder]")
    for entry in facts:
        shape = "x".join(map(str, entry.dims)) or "scalar"
        typer.echo(
            f"{entry.share:6.1%} {entry.packed_bytes:10,} {entry.bits_per_weight:7.3f}"
            f" {entry.entropy_bits_per_weight:7.3f} {entry.zeros:6.1%} {entry.bit_width:4} {entry.data_type:8}"
            f" {shape} {printable(entry.name)} [{entry.coder}]"
        )
    if file.is_dir() or not codec.is_packed(file):
        typer.echo(f"{len(facts)} tensors, not packed; `krimp pack` makes a .krimp file of them")
        return
    rest = file.stat().st_size - sum(entry.packed_bytes for entry in facts)
    typer.echo(f"{len(facts)} tensors; graph, small tensors and tables: {rest:,} bytes")


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except CodecError as error:
        typer.echo(f"error: {printable_lines(error)}", err=True)
        raise typer.Exit(error.exit_code) from error


def _refuse_folder(file: Path) -> None:
    if file.is_dir():
        raise CodecError(f"{file}: is a folder. Expected a file.")


def _refuse_same(file: Path, target: Path) -> None:
    if target.exists() and file.exists() and target.samefile(file):
        raise CodecError(f"{target}: --out is the input file, which would be lost. Choose another name.")


@contextmanager
def _progress(label: str) -> Iterator[Progress | None]:
    """Show a bar on stderr if that is a terminal."""
    import sys

    if not sys.stderr.isatty():
        yield None
        return
    with typer.progressbar(length=1000, label=label, file=sys.stderr) as bar:

        def update(done: int, total: int) -> None:
            bar.update(1000 * done // max(total, 1) - bar.pos)

        yield update


def _verified(file: Path) -> dict[str, Any]:
    with codec.PackedFile(file) as packed:
        header = packed.header
    return {
        "format_version": 1,
        "file": str(file),
        "packed_bytes": file.stat().st_size,
        "original_bytes": header.original_bytes,
        "sha256": header.sha256.hex(),
        "intact": True,
    }


def _packed_name(file: Path) -> Path:
    """Return the name of the .krimp file of a network: another for each, so that none takes the place of another's."""
    if file.name.endswith(INDEX_SUFFIX):
        return file.with_name(f"{file.name.removesuffix('.index.json')}.krimp")
    whole = file.resolve() if file.name in ("", "..") else file
    stem = whole.stem if whole.suffix.lower() == ".onnx" and not whole.is_dir() else whole.name
    return whole.with_name(f"{stem}.krimp")


def original_name(packed: codec.PackedFile) -> str:
    """Return the name that the original of a .krimp file gets where none is asked for."""
    if (name := network_name(packed)) is not None:
        return name
    stem = Path(packed.name).name.removesuffix(".krimp")
    suffix = (".onnx", ".safetensors", ".bin")[packed.header.container]
    return stem if Path(stem).suffix.lower() == suffix else f"{stem}{suffix}"
