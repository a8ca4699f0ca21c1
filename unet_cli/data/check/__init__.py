"""What a folder of images and masks holds, and what is wrong with it."""
