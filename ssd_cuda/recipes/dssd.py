"""DSSD321 of Fu et al. 2017 on VOC07+12, in three parts: ssd_pascal_resnet_321, _deconv_321 and
_deconv_ft_321 of chengyangfu/caffe, branch dssd.

First SSD321 alone; then the deconvolutions, with SSD321 as it is (its norms too); then everything but
the norms at a tenth of the rate. Each part starts from the weights of the one before (``--weights``).
Published: 77.1 mAP on VOC2007 after the first part, 78.6 after the last.
"""

from .paper300 import RECIPE as _PAPER300

_COMMON = dict(_PAPER300["train"], bias_lr=1.0)

RECIPE = dict(
    stages=(
        dict(
            model="ssd321",
            size=None,
            train=dict(_COMMON, steps=80_000, lr=1e-3, milestones=(40_000, 60_000)),
        ),
        dict(
            model="dssd321",
            size=None,
            train=dict(_COMMON, steps=30_000, lr=1e-3, milestones=(20_000,), freeze="backbone"),
        ),
        dict(
            model="dssd321",
            size=None,
            train=dict(_COMMON, steps=40_000, lr=1e-4, schedule="constant", milestones=(), freeze_norms=True),
        ),
    )
)
