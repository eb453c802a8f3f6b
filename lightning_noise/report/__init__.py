"""What a study found, as numbers and as figures. Reads tables of trials, never a Trainer; matplotlib in ``figures`` alone."""
