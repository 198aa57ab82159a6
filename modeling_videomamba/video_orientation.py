"""Turns the pictures of a video as its display matrix says: cameras store them lying, upside down or mirrored."""

from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type


class Orientation(NamedTuple):
    """How a stored picture becomes the one to show: rows and columns change places first, then it is mirrored."""

    is_transposed: bool = False
    is_mirrored: bool = False  # left to right
    is_flipped: bool = False  # top to bottom


UPRIGHT = Orientation()


def orientation_of(frame: "av.VideoFrame") -> Orientation:
    """One of the eight that FFmpeg's `autorotate` reads from the display matrix; at any other angle, as it is stored."""
    try:
        side_data = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # PyAV does not know the type of other side data, EXIF for one
        quarter = round(frame.rotation / 90) % 4
        return Orientation(quarter % 2 == 1, quarter in (2, 3), quarter in (1, 2))
    if side_data is None:
        return UPRIGHT
    # A point (x, y) is shown at (a x + c y, b x + d y).
    (a, b, _), (c, d, _), _ = np.frombuffer(side_data, np.int32).reshape(3, 3).astype(float)
    scales = np.hypot(a, c), np.hypot(b, d)
    if 0 in scales:
        return UPRIGHT
    quarters = np.degrees(np.arctan2(b / scales[1], a / scales[0])) / 90
    if abs(quarters - round(quarters)) >= 1 / 90:
        return UPRIGHT
    if round(quarters) % 2:
        return Orientation(True, bool(c < 0), bool(b < 0))
    return Orientation(False, bool(a < 0), bool(d < 0))


def turn(picture: np.ndarray, orientation: Orientation) -> np.ndarray:
    """A view of `picture` `(height, width, ...)` as it is shown."""
    if orientation.is_transposed:
        picture = picture.swapaxes(0, 1)
    if orientation.is_mirrored:
        picture = picture[:, ::-1]
    if orientation.is_flipped:
        picture = picture[::-1]
    return picture


__all__ = ["UPRIGHT", "Orientation", "orientation_of", "turn"]
