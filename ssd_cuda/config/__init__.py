"""Every option of the detection core, as frozen dataclasses with presets by name.

The options are plain data: the kernels, the references and the tests all read the same fields.
``preset(name)`` returns the rule of one codebase exactly, quirks included (:mod:`ssd_cuda.presets` has a file
for each); ``replace`` from :mod:`dataclasses` changes a field.
"""

from .checks import (
    BoxFormat,
    check_choice,
    check_flag,
    check_integer,
    check_list,
    check_range,
    check_variances,
    to_number,
)
from .detect import DetectConfig
from .focal import FocalConfig
from .multibox import MatchConfig, MiningConfig, MultiBoxConfig
from .priors import PriorSpec

__all__ = [
    "BoxFormat",
    "DetectConfig",
    "FocalConfig",
    "MatchConfig",
    "MiningConfig",
    "MultiBoxConfig",
    "PriorSpec",
    "check_choice",
    "check_flag",
    "check_integer",
    "check_list",
    "check_range",
    "check_variances",
    "to_number",
]
