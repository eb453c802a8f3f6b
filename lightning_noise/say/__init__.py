"""What is reported to people: verdict and number formats."""
