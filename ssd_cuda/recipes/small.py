"""The small SSD on two cores, or on anything: AdamW, cosine, averaged weights."""

RECIPE = dict(model="ssd_small", size=(240, 320), train=dict(augment="flip"))
