"""What the callback measures on models of torchvision, timm, transformers and others.

    pip install '.[zoo]'
    python -m benchmarks.zoo [--only "timm/CaiT" …] [--again] [--limit 600]
    python -m benchmarks.zoo --page

The first command measures every model that has no row in benchmarks/results/zoo.csv yet, in another
process, so that a crash is a row too, and an interrupted run goes on where it was. With ``--again``
it measures them anew. The second writes docs/zoo.md from that file.

All models have random weights and small configurations; nothing is downloaded. Where the compiled
operators of torchvision do not load beside a CPU build of torch, ``pip install --no-deps
torchvision==0.16.2`` has model definitions that import without them.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

HOME = Path(__file__).parents[2]
sys.path.insert(0, str(HOME))

from benchmarks.zoo.models.catalogue import BY_KEY, key
from benchmarks.zoo.page import page
from benchmarks.zoo.row import Row, load, save
from benchmarks.zoo.worker import all_rows

CSV = HOME / "benchmarks" / "results" / "zoo.csv"
PAGE = HOME / "docs" / "zoo.md"


def in_order(rows: Mapping[str, Row]) -> list[Row]:
    """In the order of the zoo; rows of entries that are gone are left out."""
    return [rows[name] for name in BY_KEY if name in rows]


def run(names: Sequence[str], path: Path, limit: float, *, again: bool) -> None:
    """Measures what has no row yet, and writes the file after every model."""
    rows = {key(row): row for row in load(path)}
    waiting = [name for name in names if again or name not in rows]
    for row in all_rows(waiting, limit):
        rows[key(row)] = row
        save(path, in_order(rows))
        alone = f"{row.outcome} {row.reason}".strip()
        print(f"{key(row)}: {alone}; in two micro-batches {row.split_outcome}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, or writes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=BY_KEY, default=list(BY_KEY), metavar="NAME")
    parser.add_argument("--again", action="store_true", help="measures what has a row, too")
    parser.add_argument("--limit", type=float, default=600, help="seconds for one model")
    parser.add_argument("--csv", type=Path, default=CSV)
    parser.add_argument("--page", action="store_true", help="writes the page and measures nothing")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page")
    args = parser.parse_args(argv)
    if args.page:
        args.output.write_text(page(load(args.csv)), encoding="utf-8")
    else:
        run(args.only, args.csv, args.limit, again=args.again)


if __name__ == "__main__":
    main()
