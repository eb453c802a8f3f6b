"""Ways to the norms of single examples' gradients, each in a training step outside any trainer."""

import copy
import functools
import gc
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness.rounds import Times, visit
from lightning_noise.hosts.loop import Monitor
from lightning_noise.probes.examples import Examples, Outer, register_rule
from lightning_noise.probes.examples.rules.linear import LinearRule

PLAIN, REFERENCE = "plain", "vmap"
VMAP_NUMBERS = 2**28  # in the per-example gradients that are held at once


class Case(NamedTuple):
    """A model and its batch.

    Args:
        shape: of the inputs, examples first; two dimensions are tokens.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def draw(self) -> tuple[Tensor, Tensor]:
        """Random inputs and targets."""
        if len(self.shape) == 2:
            tokens = torch.randint(256, (self.shape[0], self.shape[1] + 1))
            return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        return torch.randn(self.shape), torch.randint(10, self.shape[:1])


class Training:
    """A model, its optimizer and its one batch.

    Learning rate 0 keeps the weights where they are, so that all steps see the same gradients.

    Attributes:
        after_forward: is called after each forward pass.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW,
    ) -> None:
        self.module, self.inputs, self.targets = module, inputs, targets
        self.optimizer = optimizer(module.parameters(), lr=0.0)
        self.after_forward: Callable[[], object] = lambda: None

    @classmethod
    def of(
        cls, case: Case, optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW
    ) -> "Training":
        """Drawn from a fixed seed."""
        torch.manual_seed(0)
        return cls(case.build(), *case.draw(), optimizer)

    def copy(self) -> "Training":
        """With weights of its own."""
        return Training(copy.deepcopy(self.module), self.inputs, self.targets)

    def loss(self, criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy) -> Tensor:
        """Mean over the batch, whose examples have equally many targets."""
        loss = criterion(self.module(self.inputs).flatten(0, -2), self.targets.flatten())
        self.after_forward()
        return loss


class Plain:
    """The training step alone; the others add to it.

    Args:
        timed: the steps of a visit that are timed, by their weight in the mean step.
    """

    def __init__(self, training: Training, *, timed: tuple[float, ...] = (1.0,)) -> None:
        self.training, self.timed = training, timed

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The hooks of a variant are there only inside the context: the others train the same
        model.
        """
        yield

    def warm_up(self) -> None:
        """What is needed once."""
        self.step()

    def visit(self) -> Times:
        """Times of a step, after an untimed one."""
        gc.collect()
        with self.watching():
            return visit(self.step, self.timed)

    def step(self) -> None:
        """One training step."""
        self.training.optimizer.zero_grad()
        self.backward()
        self.training.optimizer.step()

    def backward(self) -> None:
        """Leaves the gradients."""
        self.training.loss().backward()

    def mean_square(self) -> float:
        """Mean over the examples of the squared norm of an example's gradient."""
        return math.nan


class Ours(Plain):
    """The probe as a plain torch loop would drive it.

    Args:
        every_n_steps: how often a step is measured. The untimed step of a visit is the last of a
            cycle, and the timed ones begin the next.
        reads: whether every step is read, which a real run does only when it logs.
    """

    def __init__(
        self,
        training: Training,
        *,
        every_n_steps: int = 1,
        timed: tuple[float, ...] = (1.0,),
        seed: int = 0,
        exact: bool = False,
        reads: bool = True,
    ) -> None:
        super().__init__(training, timed=timed)
        probe = Examples(exact=exact)
        probe.bind(training.module, seed=seed)
        self.monitor = Monitor(probe, every_n_steps=every_n_steps)
        self._every_n_steps, self._reads = every_n_steps, reads

    @contextmanager
    def watching(self) -> Iterator[None]:
        with self.monitor.attach(dict(self.training.module.named_parameters())):
            yield

    def warm_up(self) -> None:
        """Beyond the step with the checks, to the step before the last of a cycle."""
        for _ in range(2 * self._every_n_steps - 1):
            self.step()

    def step(self) -> None:
        self.training.optimizer.zero_grad()
        with self.monitor.micro_batch(size=len(self.training.inputs)):
            self.backward()
        self.monitor.step()
        if self._reads:
            self.monitor.flush()
        self.training.optimizer.step()

    def mean_square(self) -> float:
        estimate = self.monitor.estimate()  # over all steps so far, at the same weights
        return estimate.noise + estimate.signal


# three stand for ten
EveryTenth = functools.partial(Ours, every_n_steps=3, timed=(0.1, 0.9))


class GramLinear(nn.Linear):
    """To be told from Linear by its rule."""


class GramOuter(Outer):
    """Exact norms from the Gram matrices of both factors, whatever they cost."""

    def norms(self) -> list[Tensor]:
        grams = torch.bmm(self.grad, self.grad.transpose(1, 2)) * torch.bmm(
            self.inputs, self.inputs.transpose(1, 2)
        )  # (B, T, T)
        return [grams.sum((1, 2)).clamp_min(0).sqrt()]


class GramRule(LinearRule):
    """That of Linear, with a Gram matrix for its weight."""

    def contributions(
        self,
        operands: Mapping[str, Tensor],
        inputs: tuple[Tensor, ...],
        grad: Tensor,
    ) -> Mapping[str, Any]:
        parts = super().contributions(operands, inputs, grad)
        return {**parts, "weight": GramOuter(grad, inputs[0])}


class Gram(Ours):
    """The Gram trick for every Linear, in the same hooks as the sketch."""

    def __init__(self, training: Training) -> None:
        register_rule(GramLinear, GramRule())
        training = training.copy()
        for module in training.module.modules():
            if type(module) is nn.Linear:
                module.__class__ = GramLinear
        super().__init__(training, exact=True)


class Opacus(Plain):
    """Ghost norms where Opacus has them (Linear, Embedding), else per-example gradients, one layer
    at a time.
    """

    def __init__(self, training: Training) -> None:
        opacus = importlib.import_module(
            "opacus.grad_sample.grad_sample_module_fast_gradient_clipping"
        )
        super().__init__(training.copy())
        self.training.module = opacus.GradSampleModuleFastGradientClipping(self.training.module)

    def backward(self) -> None:
        super().backward()
        self._norms = self.training.module.get_norm_sample()  # (B,)

    def mean_square(self) -> float:
        return float(self._norms.square().mean())


class BackPack(Plain):
    """The extension BatchL2Grad."""

    def __init__(self, training: Training) -> None:
        self._backpack = importlib.import_module("backpack")
        self._extension = importlib.import_module("backpack.extensions").BatchL2Grad()
        super().__init__(training.copy())
        self.training.module = self._backpack.extend(self.training.module)
        self._criterion = self._backpack.extend(nn.CrossEntropyLoss())

    def backward(self) -> None:
        with self._backpack.backpack(self._extension):
            self.training.loss(self._criterion).backward()
        squares = [
            self._squares_of(module, p)
            for module in self.training.module.modules()
            for p in module.parameters(recurse=False)
        ]
        self._squares = torch.stack(squares).sum(0) * len(squares[0]) ** 2  # (B,)

    def _squares_of(self, module: nn.Module, parameter: nn.Parameter) -> Tensor:
        if not hasattr(parameter, "batch_l2"):
            # a limit of the competitor, which becomes a row of the table
            raise NotImplementedError(f"BatchL2Grad does not support {type(module).__name__}")
        return parameter.batch_l2

    def mean_square(self) -> float:
        return float(self._squares.mean())


class Vmap(Plain):
    """The gradients of all examples, as many at a time as memory allows."""

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        numbers = sum(parameter.numel() for parameter in training.module.parameters())
        self._chunk = max(1, VMAP_NUMBERS // numbers)
        self._gradients = torch.func.vmap(torch.func.grad(self._loss_of_one), in_dims=(None, 0, 0))

    def _loss_of_one(self, parameters: dict[str, Tensor], inputs: Tensor, target: Tensor) -> Tensor:
        output = torch.func.functional_call(
            self.training.module, parameters, (inputs.unsqueeze(0),)
        )
        return F.cross_entropy(output.flatten(0, -2), target.flatten())

    def backward(self) -> None:
        parameters = {
            name: parameter.detach() for name, parameter in self.training.module.named_parameters()
        }
        examples = len(self.training.inputs)
        squares: list[Tensor] = []
        total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        pairs = zip(
            self.training.inputs.split(self._chunk),
            self.training.targets.split(self._chunk),
            strict=True,
        )
        for inputs, targets in pairs:
            gradients = self._gradients(parameters, inputs, targets)
            squares.append(
                sum(
                    torch.linalg.vector_norm(g.flatten(1), dim=1).square()
                    for g in gradients.values()
                )
            )
            for name, gradient in gradients.items():
                total[name].add_(gradient.sum(0))
        for name, parameter in self.training.module.named_parameters():
            parameter.grad = total[name].div_(examples)
        self._squares = torch.cat(squares)

    def mean_square(self) -> float:
        return float(self._squares.mean())


class LayerNormOnly(Plain):
    """Exact norms of LayerNorm's parameters: γ from Σ_t g_t x̂_t, β from Σ_t g_t."""

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self._layers = [
            module for module in training.module.modules() if isinstance(module, nn.LayerNorm)
        ]
        if not self._layers:
            raise ValueError("no LayerNorm in the model")

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ExitStack() as stack:
            for layer in self._layers:
                stack.callback(layer.register_forward_hook(self._on_forward).remove)
            yield

    def _on_forward(self, layer: nn.LayerNorm, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].detach()
        output.register_hook(
            lambda grad: self._add(grad, F.layer_norm(x, layer.normalized_shape, eps=layer.eps))
        )

    def _add(self, grad: Tensor, normed: Tensor) -> None:
        self._parts += [
            (grad * normed).flatten(1, -2).sum(1),
            grad.flatten(1, -2).sum(1),
        ]  # (B, d) each

    def backward(self) -> None:
        self._parts: list[Tensor] = []
        super().backward()
        self._squares = torch.cat(self._parts, 1).square().sum(1) * len(self.training.inputs) ** 2

    def mean_square(self) -> float:
        return float(self._squares.mean())


class Variant(NamedTuple):
    """A name and how to make it; ``frequent`` ones are in all rounds."""

    name: str
    make: Callable[[Training], Plain]
    frequent: bool = False


VARIANTS = (
    Variant(PLAIN, Plain, frequent=True),
    Variant("examples", Ours, frequent=True),
    Variant("examples, every 10th", EveryTenth, frequent=True),
    Variant("examples, exact", functools.partial(Ours, exact=True)),
    Variant("opacus ghost norms", Opacus),
    Variant("backpack BatchL2Grad", BackPack),
    Variant(REFERENCE, Vmap),
    Variant("LayerNorm only", LayerNormOnly),
    Variant("plain again", Plain),
)
SCALING_VARIANTS = (VARIANTS[0], VARIANTS[1], Variant("examples, Gram only", Gram, frequent=True))


def make(variant: Variant, training: Training) -> Plain | str:
    """The variant after its first steps, or the reason why it does not run."""
    try:
        method = variant.make(training)
        with method.watching():
            method.warm_up()
    except ModuleNotFoundError as error:
        return f"not run: {error.name} is not installed"
    # another's library may raise anything, and the table goes on without it
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return f"not run: {reason[:120]}"
    return method
