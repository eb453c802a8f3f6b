"""What users read: the verdict, log keys and number formats."""
