"""Ways into SSD code that people already have."""

from .torchvision import accelerate, restore

__all__ = ["accelerate", "restore"]
