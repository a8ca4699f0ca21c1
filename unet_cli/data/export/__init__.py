"""Objects of a mask -> what annotation tools open. Each format is drawn back by the reader of data/annotations.

| format  | origin (0, 0)               | a pixel is inside where | holes                  | several parts            |
|---------|-----------------------------|-------------------------|------------------------|--------------------------|
| geojson | corner of the first pixel,  | its centre is           | inner rings            | MultiPolygon             |
|         | or the image's own system   |                         |                        |                          |
| coco    | corner of the first pixel   | its centre is           | compressed run lengths | several polygons         |
| yolo    | corner, in shares of a side | its centre is           | joined by a bridge     | joined by a bridge       |
| labelme | centre of the first pixel   | its centre is inside or | shape_type mask        | joined where they touch, |
|         |                             | on the outline          |                        | else shape_type mask     |
| roi     | corner of the first pixel   | its centre is           | composite ROI          | composite ROI            |

A bridge is a line to the hole or part and back again, which encloses nothing (as `merge_multi_segment` of Ultralytics).
YOLO has no place for scores; Ultralytics itself rounds corners down to whole pixels and draws them in, which makes
objects half a pixel larger. labelme's polygons are checked by drawing them; one that doesn't draw its object is a mask.
"""
