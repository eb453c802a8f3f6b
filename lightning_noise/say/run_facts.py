"""What the scalars of a log do not say about a run: its optimizers, and what batch sizes count."""

import json
from collections.abc import Mapping
from typing import NamedTuple

FILE = "noise_scale.json"  # beside what a logger writes


class RunFacts(NamedTuple):
    """The facts of one optimizer of a run.

    Args:
        optimizer: the name of its class.
        rate_exponent: of the large-batch model's rule for the learning rate: 1 for SGD, 1/2 for
            optimizers of the Adam kind.
        unit: what a batch size counts, in the plural.
        verdict: as at the end of the last epoch or of the fit; "" before.
        step: of the verdict, on the axis of the loggers.
    """

    optimizer: str
    rate_exponent: float
    unit: str
    verdict: str = ""
    step: int = 0


def to_text(facts: Mapping[str, RunFacts]) -> str:
    """The facts of all optimizers, by the names that their log keys have, as JSON."""
    return json.dumps({name: found._asdict() for name, found in facts.items()}, indent=2)


def from_text(text: str) -> dict[str, RunFacts]:
    """The facts that ``to_text`` wrote.

    Raises:
        ValueError: the text is something else.

    >>> facts = {"": RunFacts("SGD", 1.0, "tokens", "Your batch size …", 99)}
    >>> from_text(to_text(facts)) == facts
    True
    """
    found = {}
    try:
        for name, fields in json.loads(text).items():
            known = RunFacts(**fields)
            found[name] = RunFacts(
                optimizer=str(known.optimizer),
                rate_exponent=float(known.rate_exponent),
                unit=str(known.unit),
                verdict=str(known.verdict),
                step=int(known.step),
            )
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"the text must be what to_text wrote: {error}.") from error
    return found
