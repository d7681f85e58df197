"""Models as files for other runtimes: ONNX in three forms, and packages of AOTInductor.

Importing this module makes ``torch.onnx.export`` know ``ops.detect``, ``ops.decode`` and ``ops.nms``; see
:func:`translation_table`.
"""

from .limits import remarks
from .onnx_file import to_onnx, translation_table
from .onnx_ops import ONNXExportError
from .package import to_pt2
from .registration import register

__all__ = ["ONNXExportError", "remarks", "to_onnx", "to_pt2", "translation_table"]

register()
