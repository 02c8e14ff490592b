"""A slide's picture in the colours of its ICC profile: for the eye alone, what computes reads the slide as before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_pathotune import compat
from napari_pathotune.layers import facts

if TYPE_CHECKING:
    from napari_pathotune.session import Session


def can_be_shown(layer: Any) -> bool:
    """Whether the slide of this layer says what its colours are."""
    return facts(layer)["slide"].icc_profile is not None


def are_shown(layer: Any) -> bool:
    """Whether the layer's picture is converted by the slide's profile."""
    return "picture" in facts(layer)


def show(session: Session, wanted: bool) -> None:
    """Show the active slide converted by its profile, or as it is stored.

    Raises
    ------
    PathotuneError : the file cannot be opened any more.
    """
    from pathotune.slides import open_slide

    layer = session.active_layer
    if layer is None or wanted == are_shown(layer):
        return
    about = facts(layer)
    before = about.get("picture")
    if wanted:
        picture = open_slide(about["path"], icc=True)
        if not picture.converts_color:
            compat.show_warning(f"{picture.name}: {picture.warnings[-1] if picture.warnings else 'no colour profile.'}")
            picture.close()
            return
        about["picture"] = picture
    else:
        del about["picture"]
    _put(session, layer, (picture if wanted else about["slide"]).pyramid)
    if before is not None:
        before.close()
    session.active_changed.emit()


def _put(session: Session, layer: Any, levels: list[Any]) -> None:
    views = session.companions.get("slide views")
    if views is not None and layer.multiscale:
        views.put(layer, levels)
    else:
        layer.data = levels if layer.multiscale else levels[0]
