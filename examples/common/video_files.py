"""Video files of a folder."""

from pathlib import Path


VIDEO_SUFFIXES = {".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"}


def find_videos(folder: Path) -> list[Path]:
    """The video files in a folder and the folders in it, in order, without hidden ones, whose names start with a dot."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
