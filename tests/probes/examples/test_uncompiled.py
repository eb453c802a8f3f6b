"""The stance of torch.compile is one for the process, and is given back."""

import pytest
import torch
from torch import nn

from lightning_noise import Examples, Key
from lightning_noise.probes.examples.uncompiled import Stance, Uncompiled
from testing.compiled_models import Graphs


def compiles() -> bool:
    """Whether a compiled function that is called now is compiled."""
    torch.compiler.reset()
    backend = Graphs()
    torch.compile(torch.sin, backend=backend)(torch.ones(3))
    return backend.compiled == 1


def test_the_last_that_lets_go_gives_it_back() -> None:
    stance = Stance()
    stance.ask()
    stance.ask()
    assert not compiles()
    stance.let_go()
    assert not compiles()
    stance.let_go()
    assert compiles()


def test_a_stance_of_the_user_comes_back() -> None:
    torch.compiler.reset()
    uncompiled = Uncompiled(wanted=True)
    with torch.compiler.set_stance("fail_on_recompile"):
        uncompiled.begin()
        assert float(torch.compile(torch.sin, backend="eager")(torch.zeros(2)).sum()) == 0
        uncompiled.end()
        with pytest.raises(RuntimeError, match="fail_on_recompile"):
            torch.compile(torch.cos, backend="eager")(torch.zeros(2))
    assert compiles()


def test_begun_twice_and_ended_twice() -> None:
    uncompiled = Uncompiled(wanted=True)
    uncompiled.begin()
    uncompiled.begin()
    assert not compiles()
    uncompiled.end()
    uncompiled.end()
    assert compiles()


def test_not_wanted_it_does_nothing() -> None:
    uncompiled = Uncompiled(wanted=False)
    uncompiled.begin()
    assert compiles()
    uncompiled.end()


@pytest.mark.parametrize("eager", [True, False])
def test_only_between_listening_and_rest(eager: bool) -> None:
    model, probe = nn.Linear(2, 1), Examples(eager=eager)
    probe.bind(model)
    with probe.attach(dict(model.named_parameters()), {Key(): ["weight", "bias"]}):
        assert compiles()
        probe.listen()
        assert compiles() != eager
        probe.begin(2, 1.0)
        model(torch.randn(2, 2)).sum().backward()
        probe.end()
        assert compiles() != eager
        probe.rest()
        assert compiles()
        probe.listen()
    assert compiles()  # what a step in progress had asked for ends with the context


def test_the_argument_is_checked() -> None:
    with pytest.raises(TypeError, match="eager must be a bool, got 1"):
        Examples(eager=1)  # type: ignore[arg-type]
