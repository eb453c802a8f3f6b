"""``python -m benchmarks list | run NAME [--quick] | page``, from the root of the repository.

``list`` prints the index. ``run`` measures what the file of the benchmark does not have yet, and
``run NAME --help`` says what it does and takes. ``page`` fills the tables of all pages.
"""

import argparse
from collections.abc import Sequence

from benchmarks.harness import command, pages
from benchmarks.harness.spec import HOME
from benchmarks.index import BENCHMARKS


def main(argv: Sequence[str] | None = None) -> None:
    """Does what the first word says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words = parser.add_subparsers(dest="word", required=True)
    words.add_parser("list", help="prints what there is, and what it costs")
    words.add_parser("page", help="fills the tables of all pages from the rows")
    running = words.add_parser("run", help="measures", add_help=False)
    running.add_argument("name", choices=BENCHMARKS, metavar="NAME")
    given, rest = parser.parse_known_args(argv)
    if given.word == "run":
        command.main(BENCHMARKS[given.name], rest)
        return
    if rest:
        parser.error(f"{given.word} takes no arguments, got {' '.join(rest)}")
    if given.word == "list":
        print(pages.as_text(BENCHMARKS.values()))
        return
    for page in pages.write(BENCHMARKS.values()):
        print(page.relative_to(HOME))


if __name__ == "__main__":
    main()
