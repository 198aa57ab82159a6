"""Whether clips are mirrored at random, which corrupts what tells left from right."""

import sys
from collections.abc import Sequence


def decide_mirroring(wanted: bool | None, sides: Sequence[str], of: str, speaks: bool = True) -> bool:
    """As it is `wanted`; where nobody said so, clips are mirrored unless something tells left from right.

    Args:
        wanted: `--horizontal_flip`.
        sides: the names or captions that tell left from right, see [`names_with_sides`] and [`texts_with_sides`].
        of: what these are, in the plural: classes, captions.
        speaks: whether to print what was decided, on stdout, or on stderr if it is wrong.
    """
    some = ", ".join(sides[:4]) + (", ..." if len(sides) > 4 else "")
    if wanted is None:
        if speaks:
            why = f"not mirrored, since {of} tell left from right: {some}" if sides else "mirrored at random"
            print(f"clips are {why} (--horizontal_flip)")
        return not sides
    if wanted and sides and speaks:
        print(
            f"warning: clips are mirrored at random, but {of} tell left from right: {some}; --horizontal_flip False",
            file=sys.stderr,
        )
    return wanted
