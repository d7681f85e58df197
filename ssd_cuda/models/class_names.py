"""Names of classes for weights that come without: the order of Pascal VOC and of COCO is everybody's."""

from __future__ import annotations

__all__ = ["default_names"]

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
    return [f"unused {label}" if label in _COCO_GAPS else next(names) for label in range(1, 91)]


def default_names(count: int, single: str = "object") -> tuple[str, ...]:
    """Names of ``count`` classes: VOC's 20, COCO's 80, COCO's ids to 90, ``single`` for one, else numbers.

    Example:
        >>> default_names(20)[14], default_names(80)[0], default_names(90)[89], default_names(2)
        ('person', 'person', 'toothbrush', ('class 1', 'class 2'))
    """
    known = {1: [single], 20: _VOC.split(","), 80: _COCO.split(","), 90: _with_gaps()}
    return tuple(known.get(count) or [f"class {label}" for label in range(1, count + 1)])
