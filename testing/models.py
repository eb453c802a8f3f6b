"""Models that need care: compiled, checkpointed, with a sparse table, with a part that is frozen at
first.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from testing.toys import Regression


class Silent(Regression):
    """Logs nothing: ``self.log`` cannot be compiled."""

    def training_step(self, batch, batch_idx):
        return self.loss(batch)


class CompiledInside(Regression):
    def __init__(self, backend):
        super().__init__()
        self.net = torch.compile(self.net, backend=backend)


class Checkpointed(Regression):
    """The middle layer is used twice, in two segments."""

    def __init__(self, reentrant=None):
        super().__init__()
        self.middle = nn.Linear(6, 6)
        self.reentrant = reentrant

    def loss(self, batch):
        x, y = batch
        for _ in range(2):
            run = nn.Sequential(self.middle, nn.Tanh())
            x = self.net[0](x) if x.shape[1] == 4 else x
            x = (
                run(x)
                if self.reentrant is None
                else checkpoint(run, x, use_reentrant=self.reentrant)
            )
        return (self.net[2](x) - y).square().mean()


class Words(Regression):
    """Few words, so that each comes several times in a batch."""

    def __init__(self, sparse=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.table = nn.Embedding(5, 4, sparse=sparse)

    def loss(self, batch):
        words, y = batch
        return (self.net(self.table(words).mean(dim=1)) - y).square().mean()


def words():
    generator = torch.Generator().manual_seed(0)
    return DataLoader(
        TensorDataset(
            torch.randint(5, (64, 6), generator=generator), torch.randn(64, 1, generator=generator)
        ),
        batch_size=4,
    )


class Backbone(Regression):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.backbone = nn.Linear(4, 4)

    def loss(self, batch):
        return super().loss((self.backbone(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.05)


class Lost(Regression):
    """Weights that do not move, and a gradient that from step 30 on is pure noise."""

    def __init__(self):
        super().__init__(lambda p: torch.optim.SGD(p, lr=0.0))

    def training_step(self, batch, batch_idx):
        x, _ = batch
        level = 1.0 if self.global_step < 30 else 0.0
        source = torch.Generator().manual_seed(batch_idx + 1000 * self.current_epoch)
        noise = torch.randn(len(x), 1, generator=source)
        return (self.net(x) * (noise + level)).mean()
