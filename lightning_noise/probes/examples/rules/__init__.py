"""One rule per operation: how per-example gradients follow from inputs and output gradients."""
