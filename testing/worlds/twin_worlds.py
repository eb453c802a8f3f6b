"""Modules of ``pytorch_lightning``, and what two processes do under its Trainer."""

import tempfile

import lightning as L
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lightning_noise import GradientNoiseScale, NoiseStrategyMixin
from testing import string_hook
from testing.gans import Gan
from testing.toys import Regression, data, trainer
from testing.worlds.ddp_worlds import RANK, WORLD, equal_sizes, measure


class TwinRegression(pl.LightningModule):
    """The toy regression, line for line, as a module of the twin package."""

    def __init__(self, learning_rate=0.0, width=6):
        super().__init__()
        self.net = Regression(width=width).net
        self.learning_rate = learning_rate

    loss, training_step = Regression.loss, Regression.training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


class TwinGan(pl.LightningModule):
    """The toy GAN, which steps by itself, line for line as a module of the twin package."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        own = Gan()
        self.generator, self.discriminator = own.generator, own.discriminator
        for name in ("order", "toggle", "accumulate", "critic_steps", "before_step", "zero", "lr"):
            setattr(self, name, getattr(own, name))

    losses, training_step, one_step, configure_optimizers = (
        Gan.losses,
        Gan.training_step,
        Gan.one_step,
        Gan.configure_optimizers,
    )


class MyDDPStrategy(pl.strategies.DDPStrategy):
    """A user's strategy over the twin's, with a hook registered in its own way."""

    def _register_ddp_hooks(self):
        self.model.register_comm_hook([7], string_hook.counting_hook)


class Mine(NoiseStrategyMixin, MyDDPStrategy):
    pass


def weights(strategy, *callbacks):
    pl.seed_everything(5 + RANK, verbose=False)
    module = TwinRegression(learning_rate=0.05, width=50)
    run = trainer(*callbacks, package=pl, strategy=strategy, devices=WORLD, epochs=3)
    run.fit(module, data(examples=32 * WORLD, shuffle=True))
    return [p.detach().clone() for p in module.parameters()] + [torch.get_rng_state()]


def refused(strategy):
    try:
        measure(strategy, equal_sizes(2, 2), accumulate=2, module=TwinRegression(), package=pl)
    except MisconfigurationException as error:  # the twin's own
        return str(error)
    return None


def everything():
    two, twin = equal_sizes(4, 2), {"accumulate": 2, "package": pl}
    estimates = {
        "ddp_noise": measure("ddp_noise", two, module=TwinRegression(), **twin),
        "ddp": measure("ddp", two, module=TwinRegression(), **twin),
        "ddp_noise, unused": measure(
            "ddp_noise_find_unused_parameters_true", two, module=TwinRegression(), **twin
        ),
        "own strategy": measure(Mine(), two, module=TwinRegression(), **twin),
    }
    reference = {name: measure(name, two, accumulate=2) for name in ("ddp_noise", "ddp")}
    folder = tempfile.mkdtemp()
    logger = TensorBoardLogger(folder)
    run = trainer(
        GradientNoiseScale(),
        package=pl,
        strategy="ddp_noise",
        devices=WORLD,
        logger=logger,
        log_every_n_steps=2,
    )
    run.fit(TwinRegression(), data(examples=64 * WORLD))
    return {
        "estimates": estimates,
        "reference": reference,
        "hook calls": len(string_hook.CALLS),
        "weights": {
            "ddp": weights("ddp"),
            "ddp and callback": weights("ddp", GradientNoiseScale()),
            "ddp_noise and callback": weights("ddp_noise", GradientNoiseScale()),
        },
        "logged": {name: float(value) for name, value in run.callback_metrics.items()},
        "folder": logger.log_dir,
        "static graph": refused(
            type(trainer(package=pl, strategy="ddp_noise").strategy)(static_graph=True)
        ),
        "version": (pl.__version__, L.__version__),
    }
