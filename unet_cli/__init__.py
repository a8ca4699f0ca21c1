"""unet: a folder of images and masks into a segmentation network, and a folder of images into masks."""

__version__ = "0.1.0"
