"""torchvision's RetinaNet, FCOS and SSDlite with axis-aligned boxes, as a Krimp plug-in (see README.md)."""
