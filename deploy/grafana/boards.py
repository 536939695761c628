"""`python deploy/grafana/boards.py` writes the dashboards into dashboards/; a test keeps the two equal."""

import json
from pathlib import Path

from developer import DEVELOPER
from finance import FINANCE
from ops import OPS
from panels import rendered

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS = {"finance": FINANCE, "ops": OPS, "developer": DEVELOPER}


def texts() -> dict[str, str]:
    """What stands in each file of dashboards/."""
    return {
        f"{name}.json": json.dumps(rendered(dashboard), indent=1) + "\n"
        for name, dashboard in DASHBOARDS.items()
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text)
