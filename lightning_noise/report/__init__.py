"""What a study found, as numbers, text and figures.

Reads tables of runs, never a Trainer; only ``figures`` and ``axes`` use matplotlib.
"""
