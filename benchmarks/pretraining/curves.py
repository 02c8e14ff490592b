"""Loss and feature-rank curves of a run: a CSV file that grows, and its picture."""

import csv
from pathlib import Path


def append_record(path: Path, record: dict[str, float]) -> None:
    """Add one record to the CSV file, with a header where the file is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(record))
        if new:
            writer.writeheader()
        writer.writerow({name: f"{value:.6g}" for name, value in record.items()})


def read_records(path: Path) -> dict[str, list[float]]:
    """The columns of the CSV file; of a step that was done twice (a resumed run) the later record counts."""
    with path.open(newline="") as file:
        rows = {float(row["step"]): row for row in csv.DictReader(file)}
    ordered = [rows[step] for step in sorted(rows)]
    return {name: [float(row[name]) for row in ordered] for name in ordered[0]}


def cost(path: Path, tiles: int, final_tiles: int, final_from: float) -> tuple[int, float]:
    """Views that the student saw in a run, and the minutes it took, from the steps and speeds of the CSV file."""
    columns = read_records(path)
    views, minutes, before = 0, 0.0, 0.0
    for step, speed in zip(columns["step"], columns["views_per_second"], strict=True):
        # A step has pairs of tiles; a record belongs to the stage of its last step.
        seen = round((step - before) * 2 * (final_tiles if step > final_from else tiles))
        views, minutes, before = views + seen, minutes + seen / speed / 60, step
    return views, minutes


def draw_curves(path: Path, picture: Path) -> None:
    """Draw the losses and the effective rank of the class features against the step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = read_records(path)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name in ("pixel", "patch", "tile", "latent", "summary", "correlation"):
        left.plot(columns["step"], columns[name], label=name)
    left.set(xlabel="step", ylabel="loss (log)", title="losses", yscale="log")
    left.legend(fontsize=8)
    right.plot(columns["step"], columns["rank"], color="tab:purple")
    right.set(xlabel="step", ylabel="effective rank of 192", title="class features of 256 tiles", ylim=(0, None))
    figure.savefig(picture, dpi=110)
