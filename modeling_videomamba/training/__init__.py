"""Training: the Trainer, its arguments and recipes. It needs the extra `train`."""

from ..data.extras import require


require("train", __name__)
