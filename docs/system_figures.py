"""The four figures of docs/systems.md, drawn from a few boxes and arrows: `python docs/system_figures.py`."""

from __future__ import annotations

import argparse
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).resolve().parent / "pictures"
LINE_PX, FONT = 17, "Helvetica, Arial, sans-serif"
# Fill and edge; told apart by lightness and by the edge's width too, not by colour alone.
KINDS = {
    "data": ("#ffffff", "#555555", 1.2),
    "frozen": ("#d9e2ec", "#486581", 1.2),
    "trained": ("#ffe3b3", "#b35900", 2.6),
}
WORDS = {"data": "what goes in and comes out", "frozen": "stays as it is", "trained": "is trained"}


class Figure:
    """A drawing that grows by boxes, tokens and arrows."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def box(self, x: int, y: int, width: int, height: int, text: str, kind: str = "data") -> None:
        """A rectangle with lines of text in its middle."""
        fill, edge, thick = KINDS[kind]
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{fill}" stroke="{edge}" '
            f'stroke-width="{thick}"/>'
        )
        lines = text.split("\n")
        top = y + height / 2 - (len(lines) - 1) * LINE_PX / 2
        for number, line in enumerate(lines):
            self.words(x + width / 2, top + number * LINE_PX + 4.5, line)

    def tokens(self, x: int, y: int, kinds: str, names: tuple[str, ...] = ()) -> None:
        """A row of small squares, t for trained and f for frozen, with names under groups of equal letters."""
        groups: list[tuple[float, float]] = []
        place = float(x)
        for part in kinds.split():
            first = place
            for letter in part:
                fill, edge, thick = KINDS[{"t": "trained", "f": "frozen", "d": "data"}[letter]]
                self.parts.append(
                    f'<rect x="{place:g}" y="{y}" width="13" height="22" fill="{fill}" stroke="{edge}" '
                    f'stroke-width="{thick}"/>'
                )
                place += 17
            groups.append((first, place - 4))
            place += 9
        for (first, last), name in zip(groups, names, strict=False):
            for number, line in enumerate(name.split("\n")):
                self.words((first + last) / 2, y + 37 + 13 * number, line, 11)

    def words(self, x: float, y: float, text: str, size: int = 13, anchor: str = "middle") -> None:
        """A line of text."""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="#1f2933">{escape(text)}</text>'
        )

    def arrow(self, *points: tuple[float, float], dashed: bool = False, both: bool = False) -> None:
        """A line through the points with a head at its end, or at both."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        start = ' marker-start="url(#head)"' if both else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="#334e68" stroke-width="1.5"{dash}{start} '
            'marker-end="url(#head)"/>'
        )

    def legend(self) -> None:
        """What the colours mean, along the lower edge."""
        x, y = 20, self.height - 26
        for kind, words in WORDS.items():
            fill, edge, thick = KINDS[kind]
            self.parts.append(
                f'<rect x="{x}" y="{y}" width="18" height="13" rx="2" fill="{fill}" stroke="{edge}" '
                f'stroke-width="{thick}"/>'
            )
            self.words(x + 25, y + 11, words, 12, "start")
            x += 55 + 7 * len(words)

    def text(self) -> str:
        """The SVG document."""
        self.legend()
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'font-family="{FONT}">\n<title>{escape(self.title)}</title>\n'
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            'orient="auto-start-reverse"><path d="M0,0 L10,5 L0,10 z" fill="#334e68"/></marker></defs>\n'
            f'<rect width="{self.width}" height="{self.height}" fill="#fbfbf8"/>\n{body}\n</svg>\n'
        )


def pathotune() -> Figure:
    """Three groups of prompts in front of a tile's patches."""
    figure = Figure(860, 340, "PathoTune: visual, textual and instance prompts stand before the patches of a tile")
    figure.box(20, 150, 90, 60, "a tile")
    figure.box(20, 40, 150, 50, "sentences on\ntask and stain")
    figure.box(200, 40, 110, 50, "text encoder", "frozen")
    figure.box(340, 40, 110, 50, "projection", "trained")
    figure.box(150, 240, 140, 50, "refine module", "trained")
    figure.box(150, 155, 110, 50, "patches", "frozen")
    figure.tokens(
        330, 160, "f ttt tt tt ffffff", ("class", "visual\nprompts", "textual", "\ninstance", "patches of the tile")
    )
    figure.box(640, 140, 110, 70, "blocks of the\nbackbone", "frozen")
    figure.box(640, 245, 110, 40, "linear head", "trained")
    figure.box(640, 40, 110, 50, "where it looked,\nper group")
    figure.box(780, 240, 65, 50, "class")
    figure.arrow((170, 65), (200, 65))
    figure.arrow((310, 65), (340, 65))
    figure.arrow((405, 90), (405, 115), (450, 115), (450, 156))
    figure.arrow((110, 180), (150, 180))
    figure.arrow((65, 210), (65, 265), (150, 265))
    figure.arrow((260, 180), (290, 180), (290, 135), (560, 135), (560, 156))
    figure.arrow((290, 265), (494, 265), (494, 215))
    figure.arrow((602, 172), (640, 172))
    figure.arrow((695, 210), (695, 245))
    figure.arrow((695, 140), (695, 90))
    figure.arrow((750, 265), (780, 265))
    return figure


def cite() -> Figure:
    """A tile's vector is compared with the sentences of its classes."""
    figure = Figure(860, 300, "CITE: a tile's vector is compared with the sentences of the classes")
    figure.box(20, 55, 90, 60, "a tile")
    figure.box(140, 30, 190, 110, "image encoder\n \n \n ", "frozen")
    figure.tokens(160, 92, "tt ffff")
    figure.words(177, 131, "tokens", 11)
    figure.words(241, 131, "patches", 11)
    figure.box(365, 60, 110, 50, "projection", "trained")
    figure.box(20, 175, 190, 60, "a sentence for\neach class")
    figure.box(250, 180, 120, 50, "text encoder", "frozen")
    figure.box(420, 180, 120, 50, "one vector\na class")
    figure.box(580, 100, 120, 70, "how alike?\n(cosines)", "frozen")
    figure.box(740, 110, 100, 50, "probability of\neach class")
    figure.arrow((110, 85), (140, 85))
    figure.arrow((330, 85), (365, 85))
    figure.arrow((475, 85), (540, 85), (540, 125), (580, 125))
    figure.arrow((210, 205), (250, 205))
    figure.arrow((370, 205), (420, 205))
    figure.arrow((540, 205), (560, 205), (560, 150), (580, 150))
    figure.arrow((700, 135), (740, 135))
    figure.words(640, 222, "a class more is a sentence more:", 12, "start")
    figure.words(640, 239, "no tile has to be learned for it", 12, "start")
    return figure


def transcriptomics() -> Figure:
    """Expression measured beside images teaches an adapter; afterwards images are enough."""
    figure = Figure(860, 400, "Transcriptomics tuning: expression teaches an adapter, later images alone are enough")
    figure.words(20, 28, "Learning, where both were measured", 14, "start")
    figure.box(20, 45, 120, 60, "tiles of spots\nor patients")
    figure.box(170, 50, 110, 50, "backbone", "frozen")
    figure.box(310, 50, 110, 50, "adapter", "trained")
    figure.box(480, 40, 130, 40, "head to genes", "trained")
    figure.box(480, 100, 130, 40, "image vector", "trained")
    figure.box(670, 40, 170, 40, "near the measured?\n")
    figure.words(755, 73, "(objective direct)", 11)
    figure.box(670, 100, 170, 90, "its own partner nearer\nthan the others'?\n")
    figure.words(755, 175, "(objective contrastive)", 11)
    figure.box(170, 150, 250, 40, "expression measured there")
    figure.box(480, 150, 130, 40, "partner vector", "trained")
    figure.arrow((140, 75), (170, 75))
    figure.arrow((280, 75), (310, 75))
    figure.arrow((420, 75), (450, 75), (450, 60), (480, 60))
    figure.arrow((450, 75), (450, 120), (480, 120))
    figure.arrow((610, 60), (670, 60))
    figure.arrow((610, 120), (670, 120))
    figure.arrow((420, 170), (480, 170))
    figure.arrow((610, 170), (670, 170))
    figure.arrow((440, 170), (440, 92), (640, 92), (640, 72), (670, 72), dashed=True)
    figure.words(20, 238, "Afterwards, on slides without expression", 14, "start")
    figure.box(20, 255, 120, 60, "a slide")
    figure.box(170, 260, 110, 50, "backbone", "frozen")
    figure.box(310, 260, 110, 50, "adapter", "frozen")
    figure.box(480, 250, 230, 40, "every gene as a map on the slide")
    figure.box(480, 310, 230, 40, "features for any other method")
    figure.arrow((140, 285), (170, 285))
    figure.arrow((280, 285), (310, 285))
    figure.arrow((420, 285), (450, 285), (450, 270), (480, 270))
    figure.arrow((450, 285), (450, 330), (480, 330))
    return figure


def modaltune() -> Figure:
    """Genes and a task token exchange with the tiles inside a frozen slide encoder."""
    figure = Figure(860, 400, "ModalTune: genes and a task token exchange with the tiles of a frozen slide encoder")
    figure.box(20, 40, 130, 50, "features of all\ntiles of a slide")
    figure.box(190, 30, 400, 70, "slide encoder\n ", "frozen")
    for x in (215, 345, 475):
        figure.box(x, 66, 90, 26, "blocks", "frozen")
    figure.arrow((305, 79), (345, 79))
    figure.arrow((435, 79), (475, 79))
    figure.box(190, 160, 400, 70, "tokens read the tiles, the tiles read the tokens\n ", "trained")
    figure.tokens(240, 200, "t ttttt")
    figure.words(400, 216, "task token and pathway tokens", 11, "start")
    for x in (260, 390, 520):
        figure.arrow((x, 100), (x, 160), both=True)
    figure.box(20, 158, 130, 44, "sentence of\nthe task")
    figure.box(20, 225, 130, 40, "gene expression")
    figure.box(20, 290, 130, 40, "lists of pathways")
    figure.box(190, 255, 130, 50, "genes to pathway\ntokens", "trained")
    figure.box(640, 125, 190, 50, "one vector a patient")
    figure.box(640, 215, 190, 50, "near the sentence of\nthe patient's labels?")
    figure.box(640, 40, 190, 50, "linear models:\nclass and risk", "trained")
    figure.box(380, 290, 210, 40, "text encoder, fixed projection", "frozen")
    figure.box(640, 290, 190, 40, "site, diagnosis, survival …")
    figure.arrow((150, 65), (190, 65))
    figure.arrow((150, 180), (190, 180))
    figure.arrow((150, 245), (170, 245), (170, 270), (190, 270))
    figure.arrow((150, 310), (170, 310), (170, 290), (190, 290))
    figure.arrow((255, 255), (255, 230))
    figure.arrow((590, 195), (615, 195), (615, 150), (640, 150))
    figure.arrow((590, 65), (615, 65), (615, 150), (640, 150))
    figure.arrow((735, 125), (735, 90))
    figure.arrow((735, 175), (735, 215))
    figure.arrow((640, 310), (590, 310))
    figure.arrow((485, 290), (485, 250), (640, 250))
    return figure


FIGURES = {"pathotune": pathotune, "cite": cite, "transcriptomics": transcriptomics, "modaltune": modaltune}


def write(folder: Path) -> list[Path]:
    """Write every figure; returns the files."""
    written = []
    for name, draw in FIGURES.items():
        path = folder / f"system-{name}.svg"
        path.write_text(draw().text(), encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER)
    for path in write(parser.parse_args().out):
        print(path)
