"""An explanation → one HTML text that needs no other file: photo, set outlined, set removed, probabilities, curves."""

import io
import re
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from discovery import __version__
from discovery.curves import Curves
from discovery.explanation import Explanation
from discovery.images import thumbnail_data_url

TEMPLATE = Path(__file__).parent / "templates" / "explanation.html.j2"
SHOWN_PX = 448
SHOWN_CLASSES = 3
OUTLINE_RGB, CASING_RGB = (255, 40, 120), (255, 255, 255)
COLOURS = ("#24599b", "#b3261e", "#1f6f43")


def render_explanation(found: Explanation) -> str:
    """Renders the page; every text from outside is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    m, (n_search, n_curves) = len(found.masks), found.n_forwards
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=found.path.name,
        path=found.path,
        created_by=f"discovery {__version__}",
        label=found.label,
        lead=summary(found),
        shots=_shots(found),
        met=found.met,
        flipped=found.flip is not None,
        curves=found.curves,
        plot=Markup(draw_curves(found.curves, found.label)),
        n_regions=m,
        n_search=n_search,
        n_curves=n_curves,
        n_naive=m * (m + 1) // 2,
    )


def summary(found: Explanation) -> str:
    """Says in one or two plain sentences what was found."""
    c, before = found.class_index, found.probs[found.class_index]
    answer = found.classes[int(found.probs.argmax())]
    if found.probs.argmax() != c:
        return (
            f"The model answers {answer} and gives {found.label} {before:.3f}: there is no answer {found.label} to "
            "flip. The regions are ordered by what they do for it."
        )
    if found.flip is None:
        return (
            f"Nothing flips it: the model answers {found.label} ({before:.3f}) even with everything removed, so what "
            "it says of the fill itself is this class. The order of the regions says little then."
        )
    n, area = len(found.flip.regions), found.removed.mean()
    other = found.classes[int(found.flip.probs.argmax())]
    regions = "one region" if n == 1 else f"{n} regions"
    return (
        f"Without {regions} of {len(found.masks)} ({area:.0%} of what the model sees) it answers {other} instead of "
        f"{found.label}: {found.label} falls from {before:.3f} to {found.flip.probs[c]:.3f}. "
        "None of them can be left out."
    )


def draw_curves(curves: tuple[Curves, ...], label: str) -> str:
    """Draws deletion and insertion side by side as an inline SVG, a colour per fill."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "discovery", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 2.9), layout="constrained")
        for axes, name in zip(figure.subplots(1, 2, sharey=True), ("deletion", "insertion"), strict=True):
            for curve, colour in zip(curves, COLOURS, strict=False):
                axes.plot(100 * curve.area_frac, getattr(curve, name), color=colour, label=curve.fill, linewidth=1.6)
            axes.set(xlim=(0, 100), ylim=(-0.02, 1.02), xlabel=f"% of the view {_DONE[name]}")
            axes.set_title(name.capitalize(), loc="left", fontsize=10)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False)
        figure.axes[0].set_ylabel(f"probability of {_plain(label)}")
        text = io.StringIO()
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None})
    return re.sub(r"^.*?(?=<svg)", "", text.getvalue(), flags=re.S)


_DONE = {"deletion": "removed", "insertion": "laid back"}


def _plain(label: str) -> str:
    """Returns a label that matplotlib does not read as mathematics."""
    return label.replace("$", r"\$")


def _shots(found: Explanation) -> list[dict[str, Any]]:
    shots = [{"title": "As the model sees it", "url": _url(found.view), "rows": _rows(found, found.probs)}]
    if found.flip is None:
        return shots
    outlined = {"title": "The set, outlined", "url": _url(_outline(found.view, found.removed)), "rows": []}
    without = {"title": "Without it", "url": _url(found.without), "rows": _rows(found, found.flip.probs)}
    return [shots[0], outlined, without]


def _rows(found: Explanation, probs: np.ndarray) -> list[dict[str, Any]]:
    best = list(dict.fromkeys([found.class_index, *np.argsort(-probs, kind="stable").tolist()]))[:SHOWN_CLASSES]
    order = sorted(best, key=lambda c: -probs[c])
    return [{"name": found.classes[c], "prob": float(probs[c]), "own": c == found.class_index} for c in order]


def _outline(view: np.ndarray, mask: np.ndarray) -> np.ndarray:
    enlarged = _enlarged(view).copy()
    height, width = enlarged.shape[:2]
    area = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(area, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(enlarged, contours, -1, CASING_RGB, 5)
    cv2.drawContours(enlarged, contours, -1, OUTLINE_RGB, 3)
    return enlarged


def _enlarged(view: np.ndarray) -> np.ndarray:
    scale = SHOWN_PX / max(view.shape[:2])
    size = (max(1, round(view.shape[1] * scale)), max(1, round(view.shape[0] * scale)))
    return cv2.resize(view, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)


def _url(view: np.ndarray) -> str:
    return thumbnail_data_url(_enlarged(view), SHOWN_PX)
