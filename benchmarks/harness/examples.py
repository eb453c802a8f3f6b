"""Models and data of ``examples/``, which are scripts and not a package."""

import sys

from benchmarks.harness.spec import HOME

if str(HOME / "examples") not in sys.path:
    sys.path.append(str(HOME / "examples"))

from char_lm import CharLM, standard_library
from digits import DigitsNet

__all__ = ["CharLM", "DigitsNet", "standard_library"]
