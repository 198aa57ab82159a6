"""A picture of several videos: under each caption, some frames of the video side by side."""

import sys

from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from .. import VideoMambaVideoProcessor
from ..data.media_files import printable, reason_of
from .answer_picture import frame_strip


STRIP_FRAMES, STRIP_WIDTH, CAPTION_HEIGHT = 4, 720, 28  # of a row


def contact_sheet(title: str, captions: list[str], strips: list[Image.Image | None]) -> Image.Image:
    """Under a title, a row for every video: its caption, and below it its strip of frames, if it has one, all of one width."""
    strips = [strip and strip.resize((STRIP_WIDTH, round(strip.height * STRIP_WIDTH / strip.width))) for strip in strips]
    captions, strips = [title, *captions], [None, *strips]
    heights = [CAPTION_HEIGHT + (strip.height if strip else 0) for strip in strips]
    sheet = Image.new("RGB", (STRIP_WIDTH, sum(heights)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.truetype(findfont("DejaVu Sans"), 15)
    top = 0
    for caption, strip, height in zip(captions, strips, heights):
        draw.text((4, top + CAPTION_HEIGHT / 2), caption, "black", font, anchor="lm")
        if strip:
            sheet.paste(strip, (0, top + CAPTION_HEIGHT))
        top += height
    return sheet


def read_strip(video: str, processor: VideoMambaVideoProcessor) -> Image.Image | None:
    """Four whole frames side by side; `None` if the video cannot be read any more."""
    whole = {"size": {"shortest_edge": STRIP_WIDTH // STRIP_FRAMES}, "do_center_crop": False}
    try:
        [clip] = processor(video, num_frames=STRIP_FRAMES, return_tensors="pt", **whole)["pixel_values"]
    except Exception as error:  # of whatever type: the others have their pictures
        print(f"no picture: {printable(reason_of(error, video))}", file=sys.stderr)
        return None
    strip = frame_strip(clip, processor.image_mean, processor.image_std)
    return Image.fromarray((strip * 255).round().byte().numpy())
