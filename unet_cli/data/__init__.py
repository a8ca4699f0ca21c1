"""The way of an image into the network: which file is what, what is in it, samples, file formats, mask values."""
