"""Names of repairs → the functions that carry them out."""

from discovery.errors import ConfigError
from discovery.repairs import (
    augment,
    counterfactual,
    dfr,
    groupdro,
    jtt,
    project,
    python_hook,
    region_aware,
    reweight,
    spufix,
    wise,
)
from discovery.repairs.task import Repair

REPAIRS: dict[str, Repair] = {
    "dfr": dfr.repair,
    "reweight": reweight.repair,
    "groupdro": groupdro.repair,
    "jtt": jtt.repair,
    "project": project.repair,
    "spufix": spufix.repair,
    "wise": wise.repair,
    "region_aware": region_aware.repair,
    "augment": augment.repair,
    "counterfactual": counterfactual.repair,
    "python": python_hook.repair,
}


def load_repair(name: str) -> Repair:
    """Returns a repair by name.

    Raises:
        ConfigError: there is no such repair.
    """
    if name not in REPAIRS:
        raise ConfigError(f"unknown repair {name!r}; choose from {', '.join(REPAIRS)}")
    return REPAIRS[name]
