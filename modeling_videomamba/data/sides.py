"""Whether classes or captions tell left from right, so that a mirrored clip would have a wrong one."""

import re
from collections.abc import Iterable


OPPOSITES = (  # where exchanging one for the other turns the name of a class into that of another
    *(("left", "right"), ("clockwise", "counterclockwise"), ("clockwise", "anticlockwise"), ("east", "west"), ("l", "r")),
    *(("cw", "ccw"), ("lhs", "rhs"), ("port", "starboard")),
    *(("links", "rechts"), ("gauche", "droite"), ("izquierda", "derecha"), ("esquerda", "direita"), ("sinistra", "destra")),
    *(("左", "右"), ("влево", "вправо")),
)
ALONE = re.compile(r"(left|right)(wards?|most|y)?|(counter|anti)?clockwise|ccw|(east|west)(wards?|bound)")  # in any name


def names_with_sides(names: list[str]) -> list[str]:
    """The names that tell left from right, by a word such as `left`, or by a counterpart among the others.

    Words end where letters do, or small letters meet capitals: `pan_left`, `Turn Right`, `swipeLeft`.
    """
    words = {name: _words(name) for name in names}
    joined = {"".join(parts): name for name, parts in words.items()}
    found = {name for name, parts in words.items() if any(ALONE.fullmatch(part) for part in parts)}
    for name, parts in words.items():
        whole = "".join(parts)
        for one, other in OPPOSITES:
            exchanged = ["".join(other if part == one else part for part in parts)]
            if len(one) > 2 or not one.isascii():  # `panleft` and `panright`
                exchanged.append(whole.replace(one, other))
            for text in exchanged:
                if text != whole and text in joined:
                    found |= {name, joined[text]}
    return [name for name in names if name in found]


def texts_with_sides(texts: Iterable[str]) -> list[str]:
    """The captions, in English, with a word for a side or a sense of rotation, such as `left`, `rightmost` or `clockwise`.

    What else the word may mean is not looked at: `they left` counts, too.
    """
    return [text for text in texts if any(ALONE.fullmatch(word) for word in _words(text))]


def _words(name: str) -> list[str]:
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[^\W\d_]+|\d+", separated.lower())
