"""Photos + a good and a bad language model server → the same cues, nothing lost, and what each of the two cost.

Usage: python -m tests.benchmarks.llm_faults BAR --work FOLDER [--photos N] [--proposals]
BAR is the folder of the BAR photos. Both servers run on loopback and give the same answers in the end; the bad one
spoils its first answer to every question: late, fenced, after thoughts, 429, 500, cut, wrong, prose, refused, empty, or
silent until the client gives up. What is finished in FOLDER is kept: the same command goes on from there.
Without --photos all photos are read, else the first N of each class and split. What is computed for every class is left
out, and so are superpixels: they are the same for both and most of the time.
"""

import argparse
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # chat_server and pretend_llm, which the tests share

import polars as pl
from chat_server import chat_server
from pretend_llm import REPAIRED, RETRIED, BadServer, PretendModel

from discovery.backends.llm_budget import Cost, money
from discovery.config import RunConfig, make_config
from discovery.corridor import discover
from discovery.propose import COSTS_FILE
from discovery.run import Run
from flows.proposing import propose

TIMEOUT_S = 0.8
COUNTS = ("asked", "cached", "calls", "repaired", "retried", "unanswered", "tokens_in", "tokens_out", "money")


def _named(**kinds: str) -> list[tuple[str, str]]:
    return [(phrase.strip(), kind) for kind, phrases in kinds.items() for phrase in phrases.split(",")]


BAR = {
    "climbing": {
        "objects": _named(object="rope, helmet, carabiner, backpack"),
        "backgrounds": _named(background="cliff, rock wall, mountain, sky, snow"),
        "neighbours": _named(object="ledge, Rope", texture="rock"),
        "lighting": _named(lighting="bright image"),
    },
    "diving": {
        "objects": _named(object="scuba tank, swim fins, fish, diving mask"),
        "backgrounds": _named(background="underwater, sea, coral reef, sand"),
        "colours": _named(colour="blue tint"),
        "associations": _named(object="boat, bubbles, turtle"),
    },
    "fishing": {
        "objects": _named(object="fishing rod, boat, fish, hat"),
        "backgrounds": _named(background="river, lake, ocean, forest, beach"),
        "overlays": _named(text="watermark, date stamp"),
    },
    "pole_vaulting": {
        "objects": _named(object="pole, crossbar, landing mat, banner"),
        "backgrounds": _named(background="stadium, running track, crowd, sky"),
        "associations": _named(object="spectator, judge's chair"),
    },
    "racing": {
        "objects": _named(object="race car, motorcycle, tyre, helmet"),
        "backgrounds": _named(background="asphalt road, race track, grandstand, grass"),
        "overlays": _named(text="logo, watermark"),
        "camera": _named(quality="blurry image"),
    },
    "throwing": {
        "objects": _named(object="ball, glove, cap, javelin"),
        "backgrounds": _named(background="baseball field, grass field, stadium, sand"),
        "neighbours": _named(object="fence, bench"),
    },
}
"""What the pretended model answers about the six classes of BAR."""
PARTS = frozenset({"pole", "fishing rod", "race car"})


@dataclass(frozen=True)
class Made:
    """A finished run, what the client counted, and what the server did.

    Attributes:
        run: the run.
        costs: step → the counts of its row of the cost table.
        billed: tokens in and out of every completion that the server sent.
        spoilt: fault → how often it was played.
        seconds: of this call; a run that was finished before takes none.
    """

    run: Run
    costs: dict[str, dict]
    billed: list[tuple[int, int]]
    spoilt: dict[str, int]
    seconds: float

    def total(self, name: str) -> float:
        return sum(cost[name] for cost in self.costs.values())


def make(config: RunConfig, folder: Path, answer: Callable, *, proposals: bool = False) -> Made:
    """Runs the corridor with a server of its own, on the port of the run before: its address is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    port, served = folder / "port", folder / "served.json"
    with chat_server(int(port.read_text()) if port.is_file() else 0) as server:
        port.write_text(str(server.port))
        server.otherwise = answer
        server.tokens = lambda body, text: (len(json.dumps(body["messages"])) // 4, len(text) // 4)
        asked = {"base_url": server.base_url, "cache": str(folder / "answers")}
        settings = config.model_copy(update={"propose": config.propose.model_copy(update=asked)})
        start = time.monotonic()
        run = propose(Run.create(folder / "run", settings), lambda *_: None)
        if server.asked:
            served.write_text(json.dumps({"billed": server.billed, "spoilt": getattr(answer, "spoilt", {})}))
        run = run if proposals else discover(settings, folder / "run")
        seconds = time.monotonic() - start
    kept = json.loads(served.read_text())
    costs = json.loads((run.path / COSTS_FILE).read_text())["steps"]
    return Made(run, costs, [tuple(pair) for pair in kept["billed"]], kept["spoilt"], seconds)


def wrongs(good: Made, bad: Made) -> list[str]:
    """Returns what is not as it should be: lost or other attributes or cues, or a cost table that is wrong."""
    found = [
        f"the table {table} differs"
        for table in ("attributes", "presences", "effects", "cues")
        if good.run.parts(table)
        and not good.run.read(table)
        .drop("prompt_hash", strict=False)
        .equals(bad.run.read(table).drop("prompt_hash", strict=False))
    ]
    expected = {
        "asked": good.total("asked"),
        "calls": len(bad.billed) - bad.spoilt["silent"],  # the client had hung up on those
        "repaired": sum(bad.spoilt[name] for name in REPAIRED),
        "retried": sum(bad.spoilt[name] for name in RETRIED),
        "unanswered": 0,
        "tokens_in": sum(pair[0] for pair in bad.billed),
        "tokens_out": sum(pair[1] for pair in bad.billed),
    }
    found += [f"{name}: {bad.total(name)}, expected {n}" for name, n in expected.items() if bad.total(name) != n]
    spent = money(Cost(tokens_in=expected["tokens_in"], tokens_out=expected["tokens_out"]), bad.run.config.propose)
    if abs(bad.total("money") - (spent or 0.0)) > 1e-12:
        found.append(f"money: {bad.total('money')}, expected {spent}")
    return found


def settings_for(root: Path, overrides: dict[str, dict] | None = None) -> RunConfig:
    """Returns a configuration with the language model and invented prices; it waits less long than a user would."""
    propose = {"proposer": "openai", "llm": "pretended", "timeout_s": TIMEOUT_S, "price_in": 0.15, "price_out": 0.6}
    values = {"dataset": {"root": str(root)}, "propose": propose}
    for section, settings in (overrides or {}).items():
        values[section] = values.get(section, {}) | settings
    return make_config(values)


def few_photos(root: Path, folder: Path, n: int, labels: Iterable[str] = BAR) -> Path:
    """Copies the first n photos of classes and splits into a folder, unless it is there."""
    for split in ("train", "test"):
        for label in labels:
            place = folder / split / label
            place.mkdir(parents=True, exist_ok=True)
            for file in sorted((root / split / label).iterdir())[:n]:
                if not (place / file.name).is_file():
                    shutil.copy(file, place)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bar", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--photos", type=int, help="of each class and split; all by default")
    parser.add_argument("--proposals", action="store_true", help="stop after the proposals")
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it would tell of every request
    root = few_photos(options.bar, options.work / "photos", options.photos) if options.photos else options.bar
    config = settings_for(root, {"propose": {"computed": False}, "embed": {"superpixels": 0}})
    model = PretendModel(BAR, PARTS)
    good = make(config, options.work / "good", model, proposals=options.proposals)
    bad = make(config, options.work / "bad", BadServer(model), proposals=options.proposals)
    print("faults played: " + ", ".join(f"{name} {n}" for name, n in bad.spoilt.items()))
    for name, made in (("good", good), ("bad", bad)):
        print(f"{name:<5}" + "".join(f"{count:>12}" for count in COUNTS))
        for step, cost in made.costs.items():
            print(f"  {step:<10}" + "".join(f"{cost[count]:>12.6g}" for count in COUNTS))
        print(f"  {made.seconds:.0f} s, {len(made.run.read('attributes'))} attributes")
    if bad.run.parts("cues"):
        _print_verdicts(bad.run.read("cues"))
    print("wrong: " + ("; ".join(wrongs(good, bad)) or "nothing"))


def _print_verdicts(cues: pl.DataFrame) -> None:
    for verdict, n in cues["verdict"].value_counts().sort("verdict").iter_rows():
        print(f"{verdict:<24}{n:>4}")
    print(
        "spurious: "
        + "; ".join(f"{c['label']}: {c['phrase']}" for c in cues.rows(named=True) if c["verdict"] == "spurious")
    )


if __name__ == "__main__":
    main()
