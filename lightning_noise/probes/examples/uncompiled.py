"""Measured steps without ``torch.compile``, so that hooks on layers fire in a compiled model."""

from contextlib import ExitStack

import torch

EVERY = 20  # optimizer steps: one that runs uncompiled is slower than the others
COMPILED = (
    "it runs inside torch.compile, where hooks may not fire; Examples(eager=True) measures it"
)
EAGER_FIX = "Use Examples(eager=True), which runs measured steps without torch.compile"


class Stance:
    """The stance of ``torch.compile``, which is one for the whole process.

    The first that asks sets it and the last that lets go gives it back, in whatever order: with
    several optimizers each has a probe.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._stack = ExitStack()

    def ask(self) -> None:
        """Sets it, unless it is set."""
        if self._asked == 0:
            # Compiled code stays in its cache: the next compiled call finds it there.
            self._stack.enter_context(torch.compiler.set_stance("force_eager"))
        self._asked += 1

    def let_go(self) -> None:
        """Gives back the one that was there before, unless another still asks."""
        self._asked -= 1
        if self._asked == 0:
            self._stack.close()


_STANCE = Stance()


class Uncompiled:
    """Runs compiled modules and functions as they were written, from ``begin`` to ``end``.

    Args:
        wanted: whether to; otherwise nothing is done, and the compiler is not imported.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._begun = False

    def begin(self) -> None:
        """A forward pass begins; again where one has begun already."""
        if self._wanted and not self._begun:
            _STANCE.ask()
            self._begun = True

    def end(self) -> None:
        """No pass is in progress; may be called twice."""
        if self._begun:
            self._begun = False
            _STANCE.let_go()
