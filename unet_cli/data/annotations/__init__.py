"""Annotation files of other tools -> masks: shapes of each image as plain values, and their drawing.

formats: the table of formats, each in a file of its own: bytes -> shapes, and how entries find their images where that
is special (labelme, coco, yolo, cvat, labelstudio, geojson, imagej, napari, supervisely, via). linked: how entries find
images otherwise. link: which image a name means. labelmap: names and colours of mask images. rle: run lengths. bitmaps,
rings, csvrows, slices: what several formats hold. shapes: the values. polygons: drawing. parsed: files that were read.
find: a folder of images and annotation files -> pairs.
"""
