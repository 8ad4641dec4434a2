"""From pixels of a raster to coordinates of a map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compress.errors import DataError

WGS84 = "OGC:CRS84"  # longitude, latitude; what RFC 7946 means


@dataclass(frozen=True)
class MapPosition:
    """Where the pixels of a raster lie.

    Attributes:
        transform: (a, b, c, d, e, f): map x = a * column + b * row + c, map y = d * column + e * row + f, where
            (0, 0) is the outer corner of the first pixel (GDAL's convention, GeoTIFF's PixelIsArea).
        crs: coordinate reference system of the map, WKT.
    """

    transform: tuple[float, float, float, float, float, float]
    crs: str

    def to_map(self, points: np.ndarray) -> np.ndarray:
        """Return pixels (n, 2), x and y, as coordinates (n, 2) of the raster's own map."""
        points = np.asarray(points, np.float64).reshape(-1, 2)
        a, b, c, d, e, f = self.transform
        coordinates: np.ndarray = points @ np.array([[a, d], [b, e]]) + (c, f)
        return coordinates

    def to_wgs84(self, points: np.ndarray) -> np.ndarray:
        """Return pixels (n, 2), x and y, as (n, 2) longitude and latitude in degrees.

        Raises:
            DataError: the map's system has no way to WGS 84, or a point has none.
        """
        import rasterio.errors
        import rasterio.warp

        x, y = self.to_map(points).T
        if not len(x):
            return np.zeros((0, 2))
        try:
            longitude, latitude = rasterio.warp.transform(self.crs, WGS84, x, y)
        except (rasterio.errors.RasterioError, ValueError) as error:
            raise DataError(f"{self.name}: cannot be turned into WGS 84: {error}. Pass --crs file.") from error
        found = np.stack([longitude, latitude], axis=1)
        if not np.isfinite(found).all():
            raise DataError(f"{self.name}: the raster reaches beyond the area of its map. Pass --crs file.")
        return found

    @property
    def name(self) -> str:
        """Return the name of the system: 'urn:ogc:def:crs:EPSG::32632' where it has a number, else its WKT."""
        import rasterio.crs

        authority = rasterio.crs.CRS.from_wkt(self.crs).to_authority()
        if authority is None:
            return self.crs
        return f"urn:ogc:def:crs:{authority[0]}::{authority[1]}"

    def mapper(self, *, own_map: bool) -> Callable[[np.ndarray], np.ndarray]:
        """Return `to_map` or `to_wgs84`."""
        return self.to_map if own_map else self.to_wgs84
