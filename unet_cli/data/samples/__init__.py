"""What the network sees of the data: the split, crops, batches, augmentation."""
