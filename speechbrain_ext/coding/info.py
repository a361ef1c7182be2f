"""``speechbrain-ext info``: what coded files say of themselves, without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from speechbrain_ext.codec.container import (
    CODES,
    KINDS,
    MAGIC,
    VERSION,
    BitstreamError,
    checksum_fits,
    read_coded,
    read_header,
)
from speechbrain_ext.coding.plan import CODED
from speechbrain_ext.errors import UserError, WorkError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="A list, one entry per file.")
def info(files, as_json):
    """Say what coded FILEs are: kind, rate, length, size, model, and whether whole.

    A folder stands for the .sbx files below it. Exit code 1 if a file is damaged, 2 if
    what is given is no coded file at all.
    """
    paths = _find(files)
    found, faults = [], []
    for path in paths:
        try:
            found.append(describe(_read(path), str(path)))
        except OSError as error:
            faults.append(f"{path}: {(error.strerror or str(error)).lower()}")
        except BitstreamError as error:
            faults.append(str(error))
    if as_json:
        click.echo(json.dumps(found, indent=1))
    elif len(found) == 1:
        click.echo("\n".join(_block(found[0])))
    elif found:
        click.echo("\n".join(_table(found)))
    if faults and not found:
        raise UserError("info: " + "\n      ".join(faults))
    damaged = [
        f"{entry['file']}: {entry['fault']}" for entry in found if entry["fault"]
    ]
    if told := [*damaged, *faults]:
        raise WorkError("info: " + "\n      ".join(told))


def describe(data: bytes, name: str) -> dict[str, Any]:
    """Say what the bytes of a file are.

    Arguments
    ---------
    data : bytes
    name : str
        Of the file.

    Returns
    -------
    dict
        ``file``, ``format`` (magic), ``version``, ``kind``, ``sample_rate`` (Hz),
        ``samples`` (of each channel), ``seconds``, ``channels``, ``bytes``, ``kbps``
        (of the whole file), ``codebooks`` (None but of RVQ codes), ``model`` (beginning
        of its digest), ``crc`` (whether the checksum is that of the bytes), ``fault``
        (None if the file is whole).

    Raises
    ------
    BitstreamError
        If there is no header that makes sense.
    """
    header = read_header(data, name)
    fault = None
    try:
        read_coded(data, name)
    except BitstreamError as error:
        fault = str(error).removeprefix(f"{name}: ")
    seconds = header.num_samples / header.sample_rate
    codebooks = max(header.steps) if header.kind == CODES else None
    return {
        "file": name,
        "format": MAGIC.decode(),
        "version": VERSION,
        "kind": KINDS.get(header.kind, f"unknown ({header.kind})"),
        "sample_rate": header.sample_rate,
        "samples": header.num_samples,
        "seconds": round(seconds, 6),
        "channels": len(header.payloads),
        "bytes": len(data),
        "kbps": round(8e-3 * len(data) / seconds, 3),
        "codebooks": codebooks,
        "model": header.model.hex(),
        "crc": checksum_fits(data),
        "fault": fault,
    }


def _read(path: Path) -> bytes:
    """Read a file; of what is no coded one, not more than its beginning."""
    with open(path, "rb") as stream:
        head = stream.read(len(MAGIC))
        return head + stream.read() if head == MAGIC else head


def _find(files: Sequence[str]) -> list[Path]:
    missing = [file for file in files if not Path(file).exists()]
    if missing:
        raise UserError(f"info: no such file or folder: {', '.join(missing)}")
    found = []
    for path in map(Path, files):
        below = sorted(p for p in path.rglob(f"*{CODED}") if p.is_file())
        if path.is_dir() and not below:
            raise UserError(f"info: {path}: no file in it ends in {CODED}")
        found += below if path.is_dir() else [path]
    return found


def _block(entry: dict[str, Any]) -> list[str]:
    whole = "good" if entry["crc"] else "BAD"
    kind = entry["kind"]
    if entry["codebooks"]:
        kind += f", {entry['codebooks']} codebooks"
    return [
        entry["file"],
        f"  format       {entry['format']}, version {entry['version']}",
        f"  kind         {kind}",
        f"  sample rate  {entry['sample_rate']} Hz",
        f"  length       {entry['samples']:,} samples, {entry['seconds']:,.3f} s",
        f"  channels     {entry['channels']}",
        f"  size         {entry['bytes']:,} bytes, {entry['kbps']:.2f} kbps",
        f"  model        {entry['model']}",
        f"  checksum     {whole}",
    ]


def _table(entries: Sequence[dict[str, Any]]) -> list[str]:
    rows = [("kind", "Hz", "ch", "seconds", "bytes", "kbps", "model", "checksum", "")]
    for e in entries:
        rows.append(
            (
                *(e["kind"], str(e["sample_rate"]), str(e["channels"])),
                *(f"{e['seconds']:,.2f}", f"{e['bytes']:,}", f"{e['kbps']:.2f}"),
                *(e["model"], "good" if e["crc"] else "BAD", e["file"]),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            text.rjust(width) if 0 < at < 6 else text.ljust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
