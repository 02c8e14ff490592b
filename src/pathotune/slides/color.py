"""From a scanner's colours to sRGB by its ICC profile."""

from __future__ import annotations

import io

import numpy as np

from pathotune.slides.source import Pixels


def profile_name(icc: bytes | None) -> str | None:
    """What an ICC profile calls itself; None without one, "unreadable" for a damaged one."""
    if not icc:
        return None
    from PIL import ImageCms

    try:
        name = ImageCms.getProfileDescription(ImageCms.getOpenProfile(io.BytesIO(icc)))
    except (ImageCms.PyCMSError, OSError):
        return "unreadable"
    return name.strip() or "unnamed"


class ToSrgb:
    """Turns RGB pixels of one profile into sRGB, perceptually, as viewers do.

    Parameters
    ----------
    icc : the profile's bytes.

    Raises
    ------
    ValueError : if the profile cannot be used for RGB pictures.
    """

    def __init__(self, icc: bytes) -> None:
        from PIL import ImageCms

        try:
            # Without its one-pixel cache a transform holds no state, so that threads may share it.
            self._transform = ImageCms.buildTransform(
                ImageCms.getOpenProfile(io.BytesIO(icc)),
                ImageCms.createProfile("sRGB"),
                "RGB",
                "RGB",
                flags=ImageCms.Flags.NOCACHE,
            )
        except (ImageCms.PyCMSError, OSError) as error:
            raise ValueError(str(error)) from error

    def __call__(self, pixels: Pixels) -> Pixels:
        """Pixels (height, width, 3) uint8 in sRGB."""
        from PIL import Image, ImageCms

        if not pixels.size:
            return pixels
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        ImageCms.applyTransform(picture, self._transform, inPlace=True)
        return np.array(picture)
