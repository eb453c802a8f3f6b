"""One rule a kind of layer: how its parameters' per-example gradients follow from its inputs and output gradients."""
