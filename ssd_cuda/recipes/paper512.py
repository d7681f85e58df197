"""SSD512 of Liu et al. 2016 on VOC07+12: as :mod:`ssd_cuda.recipes.paper300`, which see.

Published: 79.8 mAP on VOC2007 (11 points).
"""

from .paper300 import RECIPE as _PAPER300

RECIPE = dict(_PAPER300, model="ssd512_vgg16")
