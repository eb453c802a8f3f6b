"""Printing to the user of a Trainer, on terminals, in logs and in notebooks alike."""

import lightning as L


def print_lines(trainer: L.Trainer, text: str) -> None:
    """Prints a text line by line, each line together with its line break in one write.

    In a notebook rich replaces ``sys.stdout`` while its progress bar is shown, and keeps what has
    no line break yet. To show a complete line it flushes ``sys.stdout``, which shows the kept rest,
    which flushes again, until Python stops the recursion. So no write may end without a line break,
    and ``print`` writes its own one separately.
    """
    for line in text.splitlines():
        trainer.print(f"{line}\n", end="")
