"""The CNN of digits.py under LightningCLI, so that everything is stated in YAML or on the command
line.

    python examples/cli.py fit --config examples/adaptive.yaml
    python examples/cli.py fit --config examples/adaptive.yaml \\
        --trainer.callbacks.adaptive_batch_size=true

Needs the extras `cli` (jsonargparse) and `examples`.
"""

from digits import DigitsData, DigitsNet
from lightning.pytorch.cli import LightningCLI

if __name__ == "__main__":
    LightningCLI(DigitsNet, DigitsData, save_config_callback=None)
