"""Two loss curves of the same training, printed beside each other and drawn."""

from __future__ import annotations

from pathlib import Path


def show(names: tuple[str, str], curves: tuple[list[float], list[float]], picture: Path) -> float:
    """Prints a line a step, writes the picture, returns the largest relative difference."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    print(f"step  {names[0]:>14} {names[1]:>14}")
    for step, (first, second) in enumerate(zip(*curves, strict=True)):
        print(f"{step:>4}  {first:14.5f} {second:14.5f}")
    figure, axes = plt.subplots(figsize=(6, 3.5), dpi=130)
    axes.plot(curves[0], lw=4, alpha=0.4, label=names[0])
    axes.plot(curves[1], lw=1.2, color="black", label=names[1])
    axes.set(xlabel="step", ylabel="loss", title="The same training, twice")
    axes.legend()
    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)
    plt.close(figure)
    difference = max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(*curves, strict=True))
    print(f"largest relative difference {difference:.1e}; wrote {picture}")
    return difference
