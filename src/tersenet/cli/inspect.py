"""`tersenet inspect FILE`: where each byte went."""

from __future__ import annotations

from dataclasses import asdict

from tersenet.cli.options import FilePath, Json, print_json

NAME = "inspect"


def command(file: FilePath, json: Json = False) -> None:
    """Where each byte went: per tensor, values, positions, tables and header; and how far from the ideal that is."""
    from tersenet import artifact
    from tersenet.flow.code_lengths import tensor_lengths
    from tersenet.report.bounds import lengths_as_json, print_lengths
    from tersenet.report.tables import print_ledger

    contents, ledger = artifact.read(file), artifact.inspect(file)
    lengths = tensor_lengths(file, contents, ledger)
    if json:
        origin = {
            name: getattr(contents, name) for name in ("model", "recipe", "versions", "data", "data_digest", "seed")
        }
        print_json({"file": str(file), **asdict(ledger), "bounds": lengths_as_json(lengths), "origin": origin})
    else:
        print_ledger(file, contents, ledger)
        print()
        print_lengths(lengths)
