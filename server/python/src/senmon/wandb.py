"""An experiment's branches as offline runs of Weights & Biases: `senmon.wandb.export("demo", "runs")`.

Nothing is sent anywhere: `wandb sync runs/wandb/offline-run-*` does that, to the server and by the account of whoever
calls it.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from senmon import errors, exporting
from senmon.client import Client
from senmon.names import Thing
from senmon.types import BranchView, ExperimentView


def export(
    experiment: Thing,
    folder: str | os.PathLike[str],
    *,
    project: str = "senmon",
    entity: str | None = None,
    client: Client | None = None,
) -> dict[str, Path]:
    """Writes each branch that is over as an offline run below `folder/wandb`, and returns the folders by branch.

    A run has the branch's settings as configuration, every point at its step and time, and the experiment as its group;
    its id is the branch's. A run that is there already stays as it is; a branch that still trains is left for the next
    call, as a run that was sent takes no point back. `client`: `senmon.Client()` where absent. Raises
    `MissingPackageError` without wandb.
    """
    if client is None:
        with Client() as own:
            return export(experiment, folder, project=project, entity=entity, client=own)
    wandb = _wandb()
    target = Path(folder) / "wandb"
    target.mkdir(parents=True, exist_ok=True)
    view = client.experiment(experiment)
    headline = exporting.headline(client, view)
    written: dict[str, Path] = {}
    for branch in view["branches"]:
        if branch["state"] not in exporting.OVER or branch["step"] == 0:
            continue
        there = sorted(target.glob(f"offline-run-*-{branch['id']}"))
        written[branch["name"]] = (
            there[0] if there else _write(wandb, client, view, branch, headline, target, project, entity)
        )
    return written


def _write(
    wandb: Any,
    client: Client,
    view: ExperimentView,
    branch: BranchView,
    headline: str | None,
    target: Path,
    project: str,
    entity: str | None,
) -> Path:
    # A run gets its place when it is whole: one that was stopped in between is written anew.
    with tempfile.TemporaryDirectory(dir=target, prefix=".unfinished-") as unfinished:
        run = wandb.init(
            mode="offline",
            dir=unfinished,
            project=project,
            entity=entity,
            id=branch["id"],
            name=branch["name"],
            group=view["name"],
            job_type=branch["role"],
            tags=view["labels"],
            notes=headline,
            config=exporting.settings(view, branch) | exporting.tags(view, branch, headline),
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_disable_meta=True,
            ),
        )
        for point in exporting.points(client, branch):
            run.log({**point.values, "tokens": point.tokens, "_timestamp": point.at_ms / 1000}, step=point.step)
        run.finish(exit_code=0 if branch["state"] == "completed" else 1)
        (made,) = Path(unfinished).glob("wandb/offline-run-*")
        return Path(shutil.move(made, target / made.name))


def _wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise errors.MissingPackageError("senmon.wandb needs wandb: pip install 'senmon[wandb]'") from error
    return wandb
