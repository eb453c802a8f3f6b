"""Parameters that meet the batch in calls of functions, against a loop over single examples."""

from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import _len_torch_function_stack

from lightning_noise.core.moments import Key, Moments
from lightning_noise.probes.examples import Examples
from lightning_noise.probes.examples.calls import mode, notebook
from lightning_noise.probes.examples.calls.fast_paths import modules_of
from lightning_noise.probes.examples.calls.operations import operation_of
from testing.examples.called import CASES, Attention, Case, Normalised
from testing.examples.oracle import Loss, Truth, assert_agrees, bound, keys_of, loop
from testing.examples.unusual import GROUPED, UNUSUAL
from testing.old_torch import grouped_products, saving_hooks
from testing.storages import Storages

ALL = [*CASES, *UNUSUAL]

CHECKPOINTED = "checkpointed, reentrant=False, time_first=False, 5"


class Problem:
    """A case in fp64 and the losses of its batch and of every example."""

    def __init__(self, case: Case) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.model = case.make().double()
            if case.ids:
                self.x = torch.randint(case.ids, case.shape)
            else:
                self.x = torch.randn(case.shape, dtype=torch.float64)
        self.size = len(self.x)

    def loss(self, rows: slice = slice(None)) -> Tensor:
        return self.model(self.x[rows]).square().sum() / self.size

    def truth(self) -> Truth:
        parts: list[Loss] = [lambda i=i: self.loss(slice(i, i + 1)) for i in range(self.size)]
        return loop(self.model, parts)


def one_step(probe: Examples, problem: Problem) -> dict[str, Moments] | None:
    """One step as a host makes it: the loss is shown before its backward pass."""
    problem.model.zero_grad()
    probe.listen(problem.size)
    loss = problem.loss()
    probe.begin(problem.size, 1.0)
    probe.watch_loss(loss)
    loss.backward()
    probe.end()
    probe.rest()
    assert _len_torch_function_stack() == 0
    row = probe.row()
    if row is None:
        return None
    pairs = zip(keys_of(problem.model), row.tolist(), strict=True)
    return {key.layer: Moments(*values) for key, values in pairs}


def attached(probe: Examples, problem: Problem) -> AbstractContextManager[None]:
    return probe.attach(dict(problem.model.named_parameters()), keys_of(problem.model))


def checked_step(probe: Examples, problem: Problem) -> dict[str, Moments] | None:
    """One step in an attachment of its own, as at the start of an epoch."""
    with attached(probe, problem):
        return one_step(probe, problem)


def settled(probe: Examples, problem: Problem) -> dict[str, Moments]:
    """The first step that can be used: in those before, parameters change hands."""
    return settled_steps(probe, problem, 2)[0]


def settled_steps(probe: Examples, problem: Problem, count: int) -> list[dict[str, Moments]]:
    """That step, and those that follow it: all of them can be used."""
    with attached(probe, problem):
        for _ in range(3):
            found = one_step(probe, problem)
            if found is not None:
                return [found, *(used_step(probe, problem) for _ in range(count - 1))]
    raise AssertionError(probe.fault())


def used_step(probe: Examples, problem: Problem) -> dict[str, Moments]:
    found = one_step(probe, problem)
    assert found is not None
    return found


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_exact(case: Case) -> None:
    problem = Problem(case)
    probe = bound(problem.model, exact=True, min_coverage=0.5)
    found = settled(probe, problem)
    assert probe.coverage is not None
    assert {part.name for part in probe.coverage.missing} == case.missing
    truth = problem.truth()
    covered = {name: value for name, value in truth.small.items() if name not in case.missing}
    truth = Truth(covered, truth.big)
    assert_agrees(found, truth, problem.size, tolerance=1e-9)


@grouped_products
def test_experts_in_groups() -> None:
    problem = Problem(GROUPED)
    found = settled(bound(problem.model, exact=True, min_coverage=0.5), problem)
    assert_agrees(found, problem.truth(), problem.size, tolerance=1e-5)  # the kernel is in fp32


class Passing(nn.Module):
    """Rows of some examples are added to those of others.

    Args:
        by_index: whether by index_add, or by an assignment.
    """

    def __init__(self, by_index: bool) -> None:
        super().__init__()
        self.by_index = by_index
        self.message, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        source, target = torch.tensor([0, 2, 3, 1, 0]), torch.tensor([1, 0, 2, 2, 3])
        messages = self.message(x[source])
        received = x.new_zeros(len(x), 4)
        if self.by_index:
            received.index_add_(0, target, messages)
        else:
            received[target] = messages
        return self.head(received).tanh()


@pytest.mark.parametrize("by_index", [True, False])
def test_rows_that_come_to_other_examples_are_refused_by_name(by_index: bool) -> None:
    problem = Problem(Case("messages", lambda: Passing(by_index), (4, 5)))
    probe = bound(problem.model, exact=True, min_coverage=0.01)
    settled(probe, problem)
    assert probe.coverage is not None
    causes = {part.name: part.reason for part in probe.coverage.missing}
    assert set(causes) == {"message.weight", "message.bias"}
    how = "index_add" if by_index else "setitem"
    reason = f"rows that it meets are not led back to their examples by {how}"
    assert set(causes.values()) == {reason}


@pytest.mark.parametrize("case", [*CASES[::2], *UNUSUAL[1::3]], ids=lambda case: case.name)
def test_sketched_in_the_mean(case: Case) -> None:
    """30 draws of directions, which come from the seed and the step: six steps at five seeds."""
    problem = Problem(case)
    truth = problem.truth()
    names = [name for name in truth.small if name not in case.missing]
    wanted = truth.moments(problem.size, names).q_small
    draws = []
    for seed in range(5):
        probe = bound(problem.model, seed=seed, min_coverage=0.5)
        draws += [found[""].q_small for found in settled_steps(probe, problem, 6)]
    drawn = torch.tensor(draws, dtype=torch.float64)
    assert abs(drawn.mean() - wanted) <= 4 * drawn.std() / 30**0.5 + 1e-9 * wanted


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_gradients_are_the_same_to_the_last_bit(case: Case) -> None:
    problem = Problem(case)
    model = problem.model.float()
    problem.x = problem.x if case.ids else problem.x.float()

    def gradients() -> list[Tensor]:
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    model.zero_grad()
    problem.loss().backward()
    plain = gradients()
    probe = bound(model, min_coverage=0.01)
    for _ in range(2):
        state = torch.get_rng_state()
        checked_step(probe, problem)
        assert torch.equal(state, torch.get_rng_state())
        for before, now in zip(plain, gradients(), strict=True):
            assert torch.equal(before, now)


def test_a_wrong_order_of_the_folded_dimension_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over the examples agree in any order; the way of the derivatives does not."""
    problem = Problem(Case("time first", lambda: Attention(time_first=True), (5, 5, 8)))
    right = notebook.RULES["transpose"]

    def wrong(seen: notebook.Seen, out: Tensor) -> object:
        fold = right(seen, out)
        return fold if fold is None or out.dim() != 3 else fold._replace(dim=0, inner=1)

    monkeypatch.setitem(notebook.RULES, "transpose", wrong)
    probe = bound(problem.model, exact=True)
    assert all(checked_step(probe, problem) is None for _ in range(3))
    fault = probe.fault()
    assert fault is not None and fault.code == "mixed_examples"


class Frozen(nn.Module):
    """A frozen encoder in eval mode: where calls are not intercepted it takes a fused kernel."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encode = nn.TransformerEncoder(layer, 2).requires_grad_(False).eval()
        self.last = Normalised()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.encode(x))


def test_fused_kernels_of_frozen_modules_stay_in_use() -> None:
    problem = Problem(Case("frozen", Frozen, (4, 5, 8)))
    outputs: list[Tensor] = []
    encode = problem.model.get_submodule("encode")
    encode.register_forward_hook(lambda *call: outputs.append(call[2]))
    problem.loss()
    probe = bound(problem.model, exact=True)
    found = settled(probe, problem)
    assert torch.equal(outputs[0], outputs[1])
    trained = {name for name, p in problem.model.named_parameters() if p.requires_grad}
    truth = problem.truth()
    assert trained == truth.small.keys()
    assert_agrees(found, truth, 4, tolerance=1e-9)


def test_a_model_that_its_layers_cover_is_not_intercepted() -> None:
    depths: list[int] = []

    class Counts(nn.Linear):
        pass

    model = nn.Sequential(Counts(4, 4), nn.Linear(4, 2))
    model[0].register_forward_hook(lambda *call: depths.append(_len_torch_function_stack()))
    probe, x = bound(model), torch.randn(3, 4)
    with probe.attach(dict(model.named_parameters()), keys_of(model)):
        probe.listen(3)
        model(x)
    assert depths == [0]


def test_nothing_stays_behind_after_an_exception() -> None:
    class Fails(Normalised):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise KeyError

    model = Fails()
    probe = bound(model)
    with (
        pytest.raises(KeyError),
        probe.attach(dict(model.named_parameters()), keys_of(model)),
    ):
        probe.listen(3)
        assert _len_torch_function_stack() == 1
        model(torch.randn(3, 5, 8))
    assert _len_torch_function_stack() == 0
    assert not any(module._forward_hooks for module in model.modules())


def test_a_weight_penalty_is_left_out_by_name() -> None:
    model, x = Normalised(), torch.randn(4, 5, 8)
    problem = Problem(Case("penalty", lambda: model, (4, 5, 8)))
    problem.loss = lambda rows=slice(None): (  # type: ignore[method-assign]
        model(problem.x[rows]).square().sum() + model.scale.square().sum()
    )
    probe = bound(model, min_coverage=0.5)
    settled(probe, problem)
    assert probe.coverage is not None
    assert [part.name for part in probe.coverage.missing] == ["scale"]
    del x


HELD = ["experts", "frames", "windows", pytest.param(CHECKPOINTED, marks=saving_hooks)]


@pytest.mark.parametrize("name", HELD)
def test_no_batch_is_held_beyond_what_autograd_holds(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    times = 64
    problem = Problem(case._replace(shape=(case.shape[0] * times, *case.shape[1:])))
    probe, keys = bound(problem.model), keys_of(problem.model)
    held: list[int] = []
    for listens in (False, True, True):  # the second time without the checks of the first step
        with probe.attach(dict(problem.model.named_parameters()), keys), Storages() as storages:
            if listens:
                probe.listen(problem.size)
            loss = problem.loss()
            held.append(storages.held)
            if listens:
                probe.begin(problem.size, 1.0)
            loss.backward()
            if listens:
                probe.end()
                probe.row()
    batch = problem.x.numel() * problem.x.element_size()
    assert abs(held[2] - held[0]) < batch / 4


class Across(nn.Module):
    """A linear map of an input that is not contiguous: torch multiplies a copy of it."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.weight = nn.Parameter(torch.randn(dim, dim))
        self.bias = nn.Parameter(torch.randn(dim))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.norm(x).transpose(0, 1), self.weight, self.bias).tanh()


class AcrossWithout(Across):
    """The same without a bias."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.norm(x).transpose(0, 1), self.weight) * self.bias


@pytest.mark.parametrize("kind", [Across, AcrossWithout])
def test_of_an_input_that_autograd_copies_the_copy_alone_is_held(kind: type[Across]) -> None:
    problem = Problem(Case("across", kind, (256, 6, 8)))
    problem.loss = lambda rows=slice(None): (  # type: ignore[method-assign]
        problem.model(problem.x[rows]).square().sum() / problem.size
    )
    probe, keys = bound(problem.model, exact=True), keys_of(problem.model)
    with probe.attach(dict(problem.model.named_parameters()), keys):
        assert one_step(probe, problem) is not None  # with the checks
        held: list[int] = []
        for listens in (False, True):
            with Storages() as storages:
                if listens:
                    probe.listen(problem.size)
                loss = problem.loss()
                held.append(storages.held)
                probe.discard()
                probe.rest()
            del loss
    batch = problem.x.numel() * problem.x.element_size()
    assert held[1] - held[0] < batch / 4


@pytest.mark.parametrize("kind", [Across, AcrossWithout])
def test_the_gradients_of_such_a_map_are_those_of_a_loop(kind: type[Across]) -> None:
    problem = Problem(Case("across", kind, (5, 6, 8)))
    found = settled(bound(problem.model, exact=True), problem)
    assert_agrees(found, problem.truth(), problem.size, tolerance=1e-9)


def test_operations_of_the_probe_itself_are_not_intercepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    original = mode.Interception.__torch_function__

    def counted(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        seen.append(operation_of(func).name)
        return original(self, func, types, args, kwargs)

    class Plain(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(4, 4), nn.Linear(4, 3))
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.scale

    problem = Problem(Case("plain", Plain, (5, 4)))
    probe = bound(problem.model, exact=True)
    with attached(probe, problem):
        assert one_step(probe, problem) is not None
        monkeypatch.setattr(mode.Interception, "__torch_function__", counted)
        assert one_step(probe, problem) is not None
    own = {"linear", "mul", "square", "sum", "div", "truediv", "backward"}
    assert {name for name in seen if not name.startswith("__get__")} - own <= {
        "numel",
        "ones_like",
        "getitem",
        "set_grad_enabled",
    }


def test_modules_are_those_of_torch() -> None:
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.Sequential(shared, nn.ModuleList([nn.Tanh()])))
    model.register_module("none", None)
    assert set(modules_of(model)) == set(model.modules())
    assert len(modules_of(model)) == len(list(model.modules()))


def test_a_tensor_that_a_module_has_kept_of_the_last_step_is_a_constant() -> None:
    """A table with as many rows as the batch has examples, computed in the first forward pass."""

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(5, 4))
            self.table: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.table is None:
                self.table = torch.arange(20.0, dtype=torch.float64).reshape(5, 4).cos()
            return x * (self.table * self.scale).sum(0)

    problem = Problem(Case("keeps", Keeps, (5, 4)))
    found = settled(bound(problem.model, exact=True), problem)
    assert_agrees(found, problem.truth(), problem.size, tolerance=1e-9)


def test_what_the_self_check_drops_leaves_both_norms_at_once() -> None:
    """In one attachment, as a host keeps it from step to step."""
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.randn(4, 6, dtype=torch.float64)
    part = lambda rows: model(x[rows]).square().sum() / 4  # noqa: E731
    names = [name for name, _ in model.named_parameters() if name != "0.weight"]
    truth = loop(model, [lambda i=i: part(slice(i, i + 1)) for i in range(4)])
    for calls in (True, False):
        probe = bound(model, exact=True, min_coverage=0.01, calls=calls)
        keys = {Key(): [name for name, _ in model.named_parameters()]}
        with probe.attach(dict(model.named_parameters()), keys):
            for _ in range(4):
                model.zero_grad()
                probe.begin(4, 1.0)
                (part(slice(None)) + model[0].weight.square().sum()).backward()
                probe.end()
                row = probe.row()
        assert row is not None
        wanted = truth.moments(4, names)
        assert float(row[0, 0]) == pytest.approx(wanted.q_small, rel=1e-9)
        assert float(row[0, 1]) == pytest.approx(wanted.q_big, rel=1e-9)


def test_autocast() -> None:
    """In bf16 sums over positions are rounded in another order than in a loop."""
    problem = Problem(Case("autocast", Attention, (4, 5, 8)))
    problem.model.float()
    problem.x = problem.x.float()

    def loss(rows: slice = slice(None)) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = problem.model(problem.x[rows])
        return functional.mse_loss(out.float(), torch.ones_like(out.float()), reduction="sum") / 4

    problem.loss = loss  # type: ignore[method-assign]
    found = settled(bound(problem.model, exact=True), problem)
    truth = problem.truth()
    wanted = truth.moments(4, list(truth.small))
    assert found[""].q_small == pytest.approx(wanted.q_small, rel=2e-2)
