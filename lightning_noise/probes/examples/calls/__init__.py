"""Function calls in which parameters meet the batch, for those that no layer's hook covers."""
