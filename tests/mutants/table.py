"""The faults that run.py plants: one line each of what a slip of the hand, or of a rewrite, looks like.

A fault replaces what stands between « and » in one place of the sources; the text around it only makes the
place unique. Write down every fault that a new kernel could have, and the shortest selection of tests that
should notice it.
"""

from __future__ import annotations

from mutants.cpu import CPU
from mutants.device import DEVICE
from mutants.focal import FOCAL
from mutants.fusion import FUSION
from mutants.loss_options import LOSS_OPTIONS
from mutants.python import PYTHON
from mutants.soft_nms import SOFT_NMS

MUTANTS = [*DEVICE, *SOFT_NMS, *LOSS_OPTIONS, *FOCAL, *FUSION, *CPU, *PYTHON]
