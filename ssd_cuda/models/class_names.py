"""Names of classes for weights that come without: the order of Pascal VOC and of COCO is everybody's."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["UNUSED", "default_ids", "default_names"]

UNUSED = "unused "  # begins the name of a label that stands for none of COCO's categories

_VOC = (
    "aeroplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,diningtable,dog,horse,motorbike,person,"
    "pottedplant,sheep,sofa,train,tvmonitor"
)
_COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,"
    "parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,"
    "tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,"
    "tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,"
    "hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,"
    "keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,"
    "hair drier,toothbrush"
)
_COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # ids of COCO that no category has


def _with_gaps() -> list[str]:
    names = iter(_COCO.split(","))
    return [f"{UNUSED}{label}" if label in _COCO_GAPS else next(names) for label in range(1, 91)]


def default_names(count: int, single: str = "object") -> tuple[str, ...]:
    """Names of ``count`` classes: VOC's 20, COCO's 80, COCO's ids to 90, ``single`` for one, else numbers.

    Example:
        >>> default_names(20)[14], default_names(80)[0], default_names(90)[89], default_names(2)
        ('person', 'person', 'toothbrush', ('class 1', 'class 2'))
    """
    known = {1: [single], 20: _VOC.split(","), 80: _COCO.split(","), 90: _with_gaps()}
    return tuple(known.get(count) or [f"class {label}" for label in range(1, count + 1)])


def default_ids(classes: Sequence[str]) -> tuple[int, ...]:
    """COCO's category ids for its 80 names in its order, which leave gaps up to 90; else 1, 2, ...

    Example:
        >>> default_ids(default_names(80))[-1], default_ids(("cat", "dog"))
        (90, (1, 2))
    """
    if tuple(classes) == tuple(_COCO.split(",")):
        return tuple(label for label in range(1, 91) if label not in _COCO_GAPS)
    return tuple(range(1, len(classes) + 1))
