"""What mixes the examples of a batch is found by its derivatives; the rest is left alone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_noise.core.reasons import Severity
from lightning_noise.hosts.loop import Monitor
from lightning_noise.probes.examples import Examples, checks
from testing.examples import mixing_cases as cases
from testing.examples.mixing_cases import Case
from testing.examples.oracle import bound, keys_of
from testing.old_torch import saving_hooks


def make(build: Callable[..., Case], *args: object, seed: int = 0) -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(*args)


def checked_step(probe: Examples, case: Case) -> Tensor | None:
    """One step in which the probe is given the loss."""
    with probe.attach(dict(case.model.named_parameters()), keys_of(case.model)):
        case.model.zero_grad()
        probe.begin(case.examples, 1.0)
        loss = case.loss()
        probe.watch_loss(loss)
        loss.backward()
        probe.end()
        return probe.row()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("build", "layer"), cases.MIXED_LAYERS)
def test_a_model_that_mixes_is_refused_by_the_name_of_the_layer_before(
    build: Callable[[], Case], layer: str, seed: int
) -> None:
    case = make(build, seed=seed)
    probe = bound(case.model, min_coverage=0.01, seed=seed)
    assert checked_step(probe, case) is None
    what = f"what layer {layer!r} gives for one example reaches the outputs of others"
    assert what in str(probe.refusal)
    fix = "Accumulate gradients over two micro-batches or more, each of half the batch size"
    assert str(probe.refusal).startswith(f"{fix}: the model mixes the examples of a batch: ")
    fault = probe.fault()
    assert fault is not None and (fault.code, fault.severity) == ("mixed_examples", Severity.SKIP)
    assert fault.text.startswith("the model mixes the examples of a batch: ")
    assert fault.text.endswith(fix)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("build", cases.COUPLING_LOSSES, ids=lambda build: build.__name__)
def test_a_loss_that_couples_is_refused(build: Callable[[], Case], seed: int) -> None:
    case = make(build, seed=seed)
    probe = bound(case.model, seed=seed)
    assert checked_step(probe, case) is None
    assert "half the batch size: the loss couples the examples of a batch" in str(probe.refusal)


@pytest.mark.parametrize("build", cases.ORDINARY, ids=lambda build: build.__name__)
def test_an_ordinary_model_is_cleared(build: Callable[[], Case]) -> None:
    case = make(build)
    probe = bound(case.model, min_coverage=0.01, calls=False)
    checked_step(probe, case)
    assert (probe.refusal, probe.unchecked, probe.doubtful) == (None, (), [])
    assert checked_step(probe, case) is not None


@saving_hooks
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_are_not_checked_but_the_loss_is(reentrant: bool) -> None:
    case = make(cases.recomputed, reentrant)
    probe = bound(case.model)
    assert checked_step(probe, case) is not None
    (reason,) = probe.unchecked
    assert reason == "layers: gradient checkpointing or offloading would do its work once more"


def test_a_loss_that_the_probe_is_not_given_is_not_checked() -> None:
    case = make(cases.info_nce)
    probe = bound(case.model)
    with probe.attach(dict(case.model.named_parameters()), keys_of(case.model)):
        probe.begin(case.examples, 1.0)
        case.loss().backward()
        probe.end()
        assert probe.row() is not None
    (reason,) = probe.unchecked
    assert reason.startswith("layers and loss: the probe was not given the loss")


class Once(torch.autograd.Function):
    """Squares, without a second derivative."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grad


class Fused(torch.autograd.Function):
    """A contrastive loss that takes its gradient in the forward pass, as fused kernels do."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        with torch.enable_grad():
            inner = x.detach().requires_grad_()
            loss = functional.cross_entropy(inner @ inner.T, torch.arange(len(x)))
        ctx.save_for_backward(torch.autograd.grad(loss, inner)[0])
        return loss.detach()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0]


@pytest.mark.parametrize(
    ("function", "power", "reason"),
    [
        (
            Fused,
            1,
            "loss: FusedBackward is a custom function and may hide its derivatives",
        ),
        (
            Once,
            2,
            "loss: the loss has no second derivative (a function in the graph of the loss is",
        ),
    ],
)
def test_a_loss_without_second_derivative_is_not_checked(
    function: type[torch.autograd.Function], power: int, reason: str
) -> None:
    model, x = nn.Linear(4, 3), torch.randn(5, 4)
    case = Case(reason, model, lambda: function.apply(model(x)).pow(power).mean(), 5)
    probe = bound(model)
    assert checked_step(probe, case) is not None
    (found,) = probe.unchecked
    assert found.startswith(reason)


@pytest.mark.parametrize("scale", [1 / 8, 2.0**16])
def test_a_scaled_loss_changes_nothing(scale: float) -> None:
    mixed, ordinary = make(cases.info_nce), make(cases.classifier)
    for case, refused in ((mixed, True), (ordinary, False)):
        probe = bound(case.model)
        scaled = case._replace(loss=lambda loss=case.loss: scale * loss())
        assert (checked_step(probe, scaled) is None) == refused


def test_an_infinite_loss_is_checked_in_the_next_step() -> None:
    case = make(cases.info_nce)
    probe = bound(case.model)
    checked_step(probe, case._replace(loss=lambda: case.loss() * torch.inf))
    assert "not finite" in probe.unchecked[0] and probe.refusal is None
    assert checked_step(probe, case) is None
    assert "the loss couples" in str(probe.refusal)


def test_what_begins_to_mix_later_is_found_at_the_next_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps are used again where a later check clears the model."""
    monkeypatch.setattr(checks, "CHECK_EVERY", 3)
    mixed = make(cases.one_way_info_nce)
    plain = mixed._replace(loss=lambda: mixed.model(torch.ones(6, 12)).diagonal().square().mean())
    probe = bound(mixed.model)
    steps = (plain, mixed, mixed, mixed, mixed, plain, plain, plain)
    found = [checked_step(probe, case) is not None for case in steps]
    assert found == [True, True, True, False, False, False, True, True]
    assert probe.refusal is None


@pytest.mark.parametrize(
    "build",
    [cases.dropout, cases.variational_autoencoder, cases.tied_language_model, cases.info_nce],
    ids=lambda build: build.__name__,
)
def test_gradients_and_random_state_are_bit_for_bit_the_same(build: Callable[[], Case]) -> None:
    case, ends = make(build), []
    for probe in (None, bound(case.model)):
        with torch.random.fork_rng():
            torch.manual_seed(4)
            case.model.zero_grad()
            if probe is None:
                case.loss().backward()
            else:
                checked_step(probe, case)
            grads = [p.grad.clone() for p in case.model.parameters() if p.grad is not None]
            ends.append([*grads, torch.random.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_random_numbers_drawn_in_a_backward_pass_are_given_back() -> None:
    class Noisy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad + 0 * torch.randn_like(grad)

    first, last, x = nn.Linear(4, 3), nn.Linear(3, 2), torch.randn(5, 4)
    model = nn.ModuleList([first, last])
    case = Case("noisy", model, lambda: last(Noisy.apply(first(x))).square().mean(), 5)
    with torch.random.fork_rng():
        probe, states = bound(model), []
        for give in (True, False):
            torch.manual_seed(1)
            if give:
                checked_step(probe, case)
            else:
                case.loss().backward()
            states.append(torch.random.get_rng_state())
    assert torch.equal(*states)


class Tabled(nn.Module):
    """Tokens and places, the latter without a batch dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places, self.head = (
            nn.Embedding(30, 8),
            nn.Embedding(7, 8),
            nn.Linear(8, 30),
        )

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids) + self.places(torch.arange(ids.shape[1])))


def test_as_many_places_as_examples_are_left_out_and_nothing_else() -> None:
    model = Tabled()
    ids = torch.randint(30, (7, 7))
    case = Case("places", model, lambda: model(ids).square().mean(), 7)
    probe = bound(model, min_coverage=0.8, calls=False)
    assert checked_step(probe, case) is None
    wanted = "places.weight (it looks up consecutive numbers: positions, not examples (places))"
    fault = probe.fault()
    assert fault is not None and fault.code == "parameters_left_out" and wanted in fault.text
    assert checked_step(probe, case) is not None
    assert probe.refusal is None and probe.coverage is not None
    assert [part.name for part in probe.coverage.missing] == ["places.weight"]


def test_a_plain_loop_gives_the_loss_inside_of_the_micro_batch() -> None:
    case = make(cases.info_nce)
    monitor = Monitor(bound(case.model))
    with monitor.attach(dict(case.model.named_parameters())):
        with monitor.micro_batch(size=case.examples):
            monitor.backward(case.loss())
        monitor.step()
        monitor.flush()
    assert "the loss couples" in str(monitor.session.tracks[0].probe.refusal)
    (reason,) = monitor.skipped
    assert (reason.code, reason.severity) == ("coupled_loss", Severity.SKIP)


def test_no_graph_is_held_after_the_step() -> None:
    case = make(cases.layer_norm_transformer)
    probe = bound(case.model)
    with probe.attach(dict(case.model.named_parameters()), keys_of(case.model)):
        probe.begin(case.examples, 1.0)
        loss = case.loss()
        freed: list[bool] = []
        loss.grad_fn.metadata["held"] = Freed(freed)
        probe.watch_loss(loss)
        loss.backward()
        probe.end()
        probe.row()
        del loss
        assert freed == [True]


class Freed:
    def __init__(self, freed: list[bool]) -> None:
        self.freed = freed

    def __del__(self) -> None:
        self.freed.append(True)
