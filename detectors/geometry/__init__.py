"""Rotated boxes in NumPy: corners, overlap, suppression, tiles, text and pictures.

A box is `(cx, cy, w, h, angle_rad)`: pixels, y points down, a positive angle turns the
w axis towards +y (clockwise on the screen). Nothing here imports torch.
"""

from detectors.geometry.corners import box_corners
from detectors.geometry.detections import Detections
from detectors.geometry.drawing import draw_detections
from detectors.geometry.iou import overlapping_pairs, pairwise_iou, rotated_iou_matrix
from detectors.geometry.nms import rotated_nms
from detectors.geometry.text import dota_text, to_records
from detectors.geometry.tiling import Window, cut_window, merge_tiles, tile_windows

__all__ = [
    "Detections",
    "Window",
    "box_corners",
    "cut_window",
    "dota_text",
    "draw_detections",
    "merge_tiles",
    "overlapping_pairs",
    "pairwise_iou",
    "rotated_iou_matrix",
    "rotated_nms",
    "tile_windows",
    "to_records",
]
