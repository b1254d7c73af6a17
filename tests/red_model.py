"""A model whose answer is known: the more red pixels a view has, the surer it is of the first of two classes."""

import numpy as np

SIDE_PX = 56
BLUE, RED = (20, 60, 200), (220, 20, 20)


class Reds:
    """Says "red" by the number of cells' worth of red: its log-odds are 2 per red cell of 8 × 8 pixels, less `bar`."""

    classes = ("red", "blue")

    def __init__(self, bar: float = 3.0) -> None:
        self.bar, self.n_seen = bar, 0

    def view(self, image):
        return image

    def field(self, height_px, width_px):
        return np.array([0, 0, width_px, height_px], np.float32)

    def predict(self, views):
        self.n_seen += len(views)
        red = np.array([((view[..., 0] > 180) & (view[..., 2] < 60)).sum() / 64 for view in views])
        p = 1 / (1 + np.exp(self.bar - 2 * red))
        return np.stack([p, 1 - p], axis=1)


def painted(*cells: int, colour=RED) -> np.ndarray:
    """Draws a blue view with some cells of a 7 × 7 grid in another colour."""
    view = np.full((SIDE_PX, SIDE_PX, 3), BLUE, np.uint8)
    for cell in cells:
        row, column = divmod(cell, 7)
        view[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = colour
    return view
