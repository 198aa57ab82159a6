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


def orientation_of(frame: "av.VideoFrame") -> Orientation:
    """One of the eight that FFmpeg's `autorotate` reads from the display matrix; at any other angle, as it is stored."""
    try:
        a, b, c, d = _display_matrix(frame)
    except ValueError:  # PyAV does not know the type of other side data, EXIF for one; it still tells the angle
        quarter = round(frame.rotation / 90) % 4
        return Orientation(quarter in (1, 3), quarter in (2, 3), quarter in (1, 2))
    scales = np.hypot(a, c), np.hypot(b, d)
    if 0 in scales:
        return Orientation()
    quarters = np.degrees(np.arctan2(b / scales[1], a / scales[0])) / 90
    if abs(quarters - round(quarters)) >= 1 / 90:
        return Orientation()
    if round(quarters) % 2:
        return Orientation(True, bool(c < 0), bool(b < 0))
    return Orientation(False, bool(a < 0), bool(d < 0))


def is_stored_upright(frame: "av.VideoFrame") -> bool:
    """Whether a picture has no display matrix, or one that changes nothing."""
    try:
        return _display_matrix(frame) == (1, 0, 0, 1)
    except ValueError:
        return False


def _display_matrix(frame: "av.VideoFrame") -> tuple[float, float, float, float]:
    """`(a, b, c, d)`: a stored point (x, y) is shown at (a x + c y, b x + d y)."""
    side_data = frame.side_data.get(Type.DISPLAYMATRIX)
    if side_data is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = (np.frombuffer(side_data, np.int32) / (1 << 16)).tolist()
    return a, b, c, d


def turn(picture: np.ndarray, orientation: Orientation) -> np.ndarray:
    """A view of `picture` `(height, width, ...)` as it is shown."""
    if orientation.is_transposed:
        picture = picture.swapaxes(0, 1)
    if orientation.is_mirrored:
        picture = picture[:, ::-1]
    if orientation.is_flipped:
        picture = picture[::-1]
    return picture


__all__ = ["Orientation", "is_stored_upright", "orientation_of", "turn"]
