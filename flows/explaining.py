"""A photo and a run → the explanation's page on disk, and the short table that is printed of it."""

from pathlib import Path
from typing import TYPE_CHECKING

from flows.screen import escape

if TYPE_CHECKING:
    from rich.console import RenderableType

    from discovery.explanation import Explanation


def explain(photo: Path, run_dir: Path, label: str | None, overrides: list[str]) -> "tuple[Explanation, Path]":
    """Explains a photo and writes `explanations/<photo>-<class>.html` into the run folder, which stays as it was."""
    import re

    from discovery.config import override
    from discovery.explanation import explain_photo
    from discovery.explanation_page import render_explanation
    from discovery.run import Run

    run = Run.open(run_dir)
    config = override(run.config, overrides, ("explain", "compute"))
    found = explain_photo(Run(run.path, config), photo, label, config.explain)
    name = re.sub(r"[^\w.-]+", "_", f"{photo.stem}-{found.label}").strip("._") or "photo"
    return found, run.write_text(f"explanations/{name}.html", render_explanation(found))


def explained(found: "Explanation") -> "list[RenderableType]":
    """Returns what flips, the two areas per fill, and the cues that the set meets."""
    from rich.table import Table

    from discovery.explanation_page import summary

    parts: list[RenderableType] = [escape(summary(found))]
    if found.flip is not None:
        table = Table("class", "before", "without the set", title="Probabilities")
        for c in sorted(range(len(found.classes)), key=lambda c: -max(found.probs[c], found.flip.probs[c]))[:5]:
            cells = (found.classes[c], f"{found.probs[c]:.3f}", f"{found.flip.probs[c]:.3f}")
            table.add_row(*map(escape, cells))
        parts.append(table)
    curves = Table("filled by", "deletion AUC", "insertion AUC", title="Curves")
    for curve in found.curves:
        curves.add_row(curve.fill, f"{curve.deletion_auc:.3f}", f"{curve.insertion_auc:.3f}")
    parts.append(curves)
    if found.met:
        met = Table("cue", f"verdict for {escape(found.label)}", "of the cue", "of the set", title="Cues it meets")
        for cue in found.met:
            cells = (cue.phrase, cue.verdict or "not tried", f"{cue.covered:.0%}", f"{cue.share:.0%}")
            met.add_row(*map(escape, cells))
        parts.append(met)
    elif found.met is None:
        parts.append("the photo is not of the run: no cues to compare with")
    parts.append(f"forward passes: {found.n_forwards[0]} for the search, {found.n_forwards[1]} more for the curves")
    return parts
