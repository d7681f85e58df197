"""The rules of other SSD codebases, each written down as that codebase computes it.

These transcriptions are the oracles of the presets: tests prove that the generic reference with
``MultiBoxConfig.preset(name)`` and ``DetectConfig.preset(name)`` gives the same. They share no code with
the generic reference, and only lufficc, qfgaohao and ulfg, one lineage, share theirs. The modules have

* ``assign(boxes [G, 4], labels [G], priors [P, 4]) -> (owner [P], target [P])``: for one image, the
  ground truth that each prior is matched to (-1: none) and its class target;
* ``loss(loc [B, P, 4], conf [B, P, C], boxes, labels, priors) -> (localization, classification)`` with a
  list of boxes and of labels per image;
* ``detect(loc [P, 4], conf [P, C], priors) -> (boxes [N, 4], scores [N], labels [N], priors [N])`` for
  one image, in that codebase's own order;
* ``NUM_CLASSES``, where that codebase knows one number of classes only, the background included.

Two liberties, both needed for an answer at all: where a codebase sorts or selects without a rule for
ties, the lowest index comes first; an image without ground truth, on which several of them raise, is all
background.
"""
