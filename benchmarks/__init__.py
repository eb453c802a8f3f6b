"""Is the number right, what does it cost, and what does it gain?

``python -m benchmarks list`` prints the index. A regular package, not a namespace: a package of the
same name further back on the path, as Opacus installs one, does not take its place.
"""
