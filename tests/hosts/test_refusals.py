"""Bad arguments and set-ups: each a clear error with the argument or set-up, the rule, the value
and the way out.
"""

from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import nn

from lightning_noise import GradientNoiseScale, MicroBatches
from lightning_noise.hosts.lightning import refusals
from testing.toys import Regression, data, fit, trainer


@pytest.mark.parametrize(
    ("argument", "value", "error", "message"),
    [
        ("probe", "rank", ValueError, r"probe must be one of \['auto', .*got 'rank'"),
        ("probe", 3, TypeError, "probe must be one of .* or a Probe instance, got 3"),
        ("probe", MicroBatches, TypeError, "a Probe instance"),
        ("geometry", "fisher", ValueError, "geometry must hold different names out of .*'fisher'"),
        ("geometry", ("euclidean", "euclidean"), ValueError, "different names"),
        ("geometry", (), TypeError, "geometry must be a name or a tuple"),
        ("geometry", 2, TypeError, "geometry must be a name or a tuple of names, got 2"),
        ("every_n_steps", 0, ValueError, "every_n_steps must be None or an int >= 1, got 0"),
        ("every_n_steps", 1.5, TypeError, "every_n_steps must be None or an int >= 1, got 1.5"),
        ("every_n_steps", True, TypeError, "every_n_steps"),
        ("decay", 1.0, ValueError, "decay must lie strictly between 0 and 1, got 1.0"),
        ("decay", 0, ValueError, "decay must lie"),
        ("decay", float("nan"), ValueError, "decay must lie"),
        ("decay", "0.9", TypeError, "decay must be a number, got '0.9'"),
        ("decay", True, TypeError, "decay must be a number"),
        (
            "adaptive_batch_size",
            32,
            TypeError,
            "adaptive_batch_size must be a bool, a BatchSizePolicy",
        ),
        (
            "batch_size_fn",
            7,
            TypeError,
            "batch_size_fn must be None, a callable or a dotted path, got 7",
        ),
        (
            "batch_size_fn",
            "no_such_module.count",
            ValueError,
            "batch_size_fn='no_such_module.count' cannot be imported",
        ),
        ("batch_size_fn", "math.pi", ValueError, "must name a callable"),
        ("per_layer", -1, ValueError, "per_layer must be True, False or an int >= 1, got -1"),
        ("per_layer", "all", TypeError, "per_layer must be True, False or an int >= 1, got 'all'"),
        ("prog_bar", 1, TypeError, "prog_bar must be a bool, got 1"),
    ],
)
def test_arguments(argument, value, error, message):
    with pytest.raises(error, match=message):
        GradientNoiseScale(**{argument: value})


def refused(module, message, *, callback=None, loader=None, **arguments):
    run = trainer(callback or GradientNoiseScale(), **arguments)
    with pytest.raises(MisconfigurationException, match=message):
        run.fit(module, loader or data())
    assert not any(p._backward_hooks for p in module.parameters())
    return run


class ByFrequency(Regression):
    """Gradients that depend on the whole batch, so that single examples have none."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(4, 6, scale_grad_by_freq=True))


def test_one_device_without_accumulation_or_rules_logs_nothing(tmp_path):
    run = refused(
        ByFrequency(),
        r"needs two groups of gradients per step.*world_size=1, accumulate_grad_batches=1(?s:.*)"
        r"scale_grad_by_freq ties",
        accumulate=1,
        logger=CSVLogger(tmp_path),
    )
    assert run.global_step == 0 and not any(
        key.startswith("noise_scale") for key in run.callback_metrics
    )


def test_lbfgs():
    refused(
        Regression(lambda p: torch.optim.LBFGS(p, lr=0.1)),
        "LBFGS evaluates the loss several times.*first-order",
    )


def test_no_optimizer():
    with pytest.warns(
        UserWarning,
        match="will not be called|no optimizer|`LightningModule.configure_optimizers` returned "
        "`None`",
    ):
        refused(
            Regression(lambda p: None),
            "it needs an optimizer, but configure_optimizers returned none",
        )


def test_sync_batch_norm_is_refused_on_several_ranks_only():
    """DDP takes SyncBatchNorm on GPUs alone, so the rule is asked directly."""
    (rule,) = [r for r in refusals.REFUSALS if r.name == "SyncBatchNorm"]
    module = Regression()
    module.net.insert(1, nn.SyncBatchNorm(6))
    one, two = SimpleNamespace(world_size=1), SimpleNamespace(world_size=2)
    assert (
        rule.holds(two, module)
        and not rule.holds(one, module)
        and not rule.holds(two, Regression())
    )
    assert "SyncBatchNorm (net.1) ties the examples of all ranks together" in rule.message(
        two, module
    )


class Mine:
    """A strategy of which nothing is known."""


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("DeepSpeed", DeepSpeedStrategy, "DeepSpeedStrategy reduces gradients inside its own"),
        ("strategy", Mine, "strategy Mine is not supported"),
    ],
)
def test_strategies_that_show_nothing_are_named(name, kind, message):
    class Run:
        strategy = object.__new__(kind)

    (rule,) = [r for r in refusals.REFUSALS if r.name == name]
    assert rule.holds(Run, None) and message in rule.message(Run, None)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (0, "must return a finite number > 0, but it returned 0"),
        (-3, "it returned -3"),
        (float("nan"), "it returned nan"),
        ("many", "it returned 'many'"),
        (None, "it returned None"),
        (True, "it returned True"),
        (torch.ones(2), "it returned tensor"),
    ],
)
def test_batch_size_fn_returning_nonsense(answer, message):
    refused(Regression(), message, callback=GradientNoiseScale(batch_size_fn=lambda batch: answer))


def test_batch_size_fn_that_raises():
    refused(
        Regression(),
        "batch_size_fn raised KeyError: 'x'",
        callback=GradientNoiseScale(batch_size_fn=lambda batch: {}["x"]),
    )


def test_a_batch_whose_size_cannot_be_told():
    class Scalars(Regression):
        def training_step(self, batch, batch_idx):
            return self.net(torch.ones(2, 4)).mean()

    loader = torch.utils.data.DataLoader(
        ["a", "b", "c"], batch_size=1, collate_fn=lambda items: {"text": items[0]}
    )
    refused(Scalars(), "batch of type dict cannot be determined.*Pass batch_size_fn", loader=loader)


def test_a_probe_instance_is_used():
    probe = MicroBatches()
    callback = GradientNoiseScale(probe=probe)
    fit(Regression(), data(), callback)
    assert callback.session.tracks[0].probe is probe


def test_batch_norm_is_said(capsys):
    module = Regression()
    module.net.insert(1, nn.BatchNorm1d(6))
    fit(module, data(), GradientNoiseScale())
    assert "BatchNorm ties the examples of a micro-batch together" in capsys.readouterr().out


def test_hooks_outside_of_fit_say_so():
    with pytest.raises(RuntimeError, match="outside of fit"):
        GradientNoiseScale().on_after_backward(None, None)
