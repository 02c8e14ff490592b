"""Full fine-tuning's model: a copy of the backbone that is trained as a whole."""

from __future__ import annotations

from pathotune.methods.adapted import WholeMethod


class Full(WholeMethod):
    """Every weight of the backbone is trained; what batch norms have counted stays as it is.

    The tuning file holds all of the backbone's weights, changed: it is as large, and under its licence.
    """

    @property
    def notes(self) -> tuple[str, ...]:
        """Whose licence is on what is made."""
        card = self.backbone.card
        if not (card.non_commercial or card.no_derivatives):
            return ()
        title = card.title or card.name
        return (f"The tuning will hold all weights of {title}, changed: its licence ({card.licence}) is on the file.",)
