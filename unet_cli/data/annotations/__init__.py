"""Annotation files of other tools -> masks: shapes of each image as plain values, and their drawing.

labelme, coco, yolo, cvat: one format each, bytes -> shapes. labelmap: names and colours of mask images. rle: run
lengths. shapes: the values. polygons: drawing. parsed: files that were read. link: which image an entry is of.
find: a folder of images and annotation files -> pairs.
"""
