"""What Ctrl-C says besides that it interrupted."""

note = ""


def say_when_interrupted(text: str) -> None:
    """What Ctrl-C adds to its line from now on, such as that the same command goes on."""
    global note
    note = text
