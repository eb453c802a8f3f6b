"""The promises of every probe, on those that the package brings."""

import pytest

from lightning_noise import Examples, MicroBatches
from testing.contract import holds


def bound(module, **arguments):
    probe = Examples(**arguments)
    probe.bind(module)
    return probe


MAKES = {
    "micro_batches": lambda module: MicroBatches(),
    "examples, exact": lambda module: bound(module, exact=True),
    "examples, sketched": bound,
}


@pytest.mark.parametrize("name", MAKES)
def test_the_contract_holds(name):
    holds(MAKES[name])
