"""Inference: from image files to masks, in batches and in bounded memory."""
