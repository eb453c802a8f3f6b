"""What people copy, pickle or script in the middle of a run knows nothing of the probe."""

import copy
import pickle
from contextlib import nullcontext

import lightning as L
import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic

from lightning_noise import GradientNoiseScale
from testing.callbacks import no_hooks
from testing.toys import Regression, data, fit


class Does(L.Callback):
    """Calls ``act`` with the module in every hook of the names given."""

    def __init__(self, act, *names):
        self.made = []

        def hook(trainer, module, *_):
            self.made.append(act(module))

        for name in names:
            setattr(self, name, hook)


BETWEEN = (
    "on_train_batch_start",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
)
ACTS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "script": lambda module: torch.jit.script(module.net),
    "quantize": lambda module: quantize_dynamic(copy.deepcopy(module.net), {nn.Linear}),
}


class Plain(Regression):
    """Can be pickled."""

    def __init__(self):
        super().__init__(optimizer=None)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def run(module, *callbacks, **arguments):
    return fit(
        module,
        data(),
        *callbacks,
        val=data(),
        val_check_interval=3,
        **{"accumulate": 1, **arguments},
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantiz.*:UserWarning")
@pytest.mark.parametrize("before", [True, False], ids=["before ours", "after ours"])
@pytest.mark.parametrize("act", ACTS)
def test_between_steps_a_module_has_no_hooks(act, before):
    names = BETWEEN[1:] if act == "script" else BETWEEN  # a module with hooks cannot be scripted
    does, noise = Does(ACTS[act], *names), GradientNoiseScale(probe="examples")
    module, hooked = Plain(), []
    look = Does(lambda module: hooked.append(not no_hooks(module)), *BETWEEN[1:])
    run(module, *((does, look, noise) if before else (noise, does, look)))
    assert len(does.made) > 50 and not any(hooked)
    assert all(isinstance(made, torch.nn.Module) for made in does.made)


def effective_hooks(module):
    """Hooks that would do something."""
    hooks = []
    for part in module.modules():
        hooks += [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
    return [hook for hook in hooks if getattr(hook, "__func__", None) is not nullcontext.__exit__]


class Copies(Plain):
    """Copies itself in the middle of a training step."""

    def __init__(self, how):
        super().__init__()
        self.how, self.copies = how, []

    def training_step(self, batch, batch_idx):
        if batch_idx == 1:
            kept, self.copies = self.copies, []
            kept.append(ACTS[self.how](self))
            self.copies = kept
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_made_inside_of_a_training_step_has_no_hook_that_does_anything(how):
    module, noise = Copies(how), GradientNoiseScale()
    run(module, noise)
    (made,) = module.copies
    assert effective_hooks(made) == []
    made.how = "deepcopy"
    measured, fresh = GradientNoiseScale(), GradientNoiseScale()
    untouched = Plain()
    untouched.load_state_dict(made.state_dict())
    run(made, measured)
    run(untouched, fresh)
    assert measured.estimate() == fresh.estimate()  # nothing is counted twice
    assert torch.equal(made.net(torch.ones(2, 4)), untouched.net(torch.ones(2, 4)))


def test_a_copy_can_be_loaded_where_this_package_is_not_installed():
    module, seen = Plain(), []
    module.net.register_forward_pre_hook(lambda net, _: seen.append(pickle.dumps(net[0])) or None)
    run(module, GradientNoiseScale())
    assert seen and all(b"lightning_noise" not in dump for dump in seen)


def test_a_target_network_kept_through_a_run_stays_clean():
    class Follows(Plain):
        """A target network copied in every step, and used in the next."""

        def training_step(self, batch, batch_idx):
            if batch_idx:
                with torch.no_grad():
                    self.target[0](batch[0])
            self.target = [copy.deepcopy(self.net)]
            return super().training_step(batch, batch_idx)

    module, noise = Follows(), GradientNoiseScale()
    run(module, noise)
    assert effective_hooks(module.target[0]) == []
    plain = GradientNoiseScale()
    run(Plain(), plain)
    assert noise.estimate() == plain.estimate()


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("every", [1, 3])
def test_hooks_are_off_between_micro_batches_and_unmeasured_steps(accumulate, every):
    found = []
    look = Does(lambda module: found.append(no_hooks(module)), "on_train_batch_end")
    noise = GradientNoiseScale(probe="examples", every_n_steps=every)
    run(Plain(), look, noise, accumulate=accumulate)
    assert len(found) == 16 and all(found)
