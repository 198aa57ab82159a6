"""Which of the names there are somebody meant who wrote another."""

import difflib
import re
from collections.abc import Iterable


def closest(name: str, names: Iterable[str]) -> list[str]:
    """Up to three of the names that `name` may stand for: `epochs` for `num_train_epochs`, `lr` for `learning_rate`."""
    words = {other: re.split(r"[_-]", other.lstrip("-")) for other in names}
    wanted = re.split(r"[_-]", name.lstrip("-").lower())
    whole = [other for other in words if set(wanted) <= set(words[other])]
    initials = [other for other in words if "".join(word[:1] for word in words[other]) == "".join(wanted)]
    similar = difflib.get_close_matches("_".join(wanted), ["_".join(w) for w in words.values()], n=3, cutoff=0.65)
    spelled = [other for close in similar for other in words if "_".join(words[other]) == close]
    return list(dict.fromkeys(initials + spelled + sorted(whole, key=len)))[:3]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """` Did you mean ...?`, or nothing if no name is close."""
    found = closest(name, names)
    return f" Did you mean {' or '.join(found)}?" if found else ""
