"""SSD networks of Caffe: a prototxt says what they are, a caffemodel holds their weights."""

from .network import caffe_ssd
from .reader import read_caffe

__all__ = ["caffe_ssd", "read_caffe"]
