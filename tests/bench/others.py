"""The same curves for TensorBoard and MLflow: what `make bench-web` compares with.

Reads what Senmon's API answers about an experiment (a list of curves: name, steps, loss), writes event files and an MLflow
database below a folder.
"""

import json
import sys
import time
from pathlib import Path


def tensorboard(curves: list[dict], folder: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    for curve in curves:
        writer = EventFileWriter(str(folder / curve["name"]))
        for step, loss in zip(curve["steps"], curve["losses"]):
            value = Summary(value=[Summary.Value(tag="train/loss", simple_value=loss)])
            writer.add_event(Event(step=step, wall_time=time.time(), summary=value))
        writer.close()


def mlflow_(curves: list[dict], database: Path) -> None:
    import mlflow
    from mlflow.entities import Metric

    mlflow.set_tracking_uri(f"sqlite:///{database}")
    experiment = mlflow.create_experiment("demo")
    client = mlflow.MlflowClient()
    for curve in curves:
        run = client.create_run(experiment, run_name=curve["name"])
        now = int(time.time() * 1000)
        points = [Metric("loss", loss, now, step) for step, loss in zip(curve["steps"], curve["losses"])]
        for first in range(0, len(points), 500):
            client.log_batch(run.info.run_id, metrics=points[first : first + 500])
        client.set_terminated(run.info.run_id)
    print(experiment)


def main() -> None:
    curves = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(sys.argv[2])
    tensorboard(curves, folder / "events")
    mlflow_(curves, folder / "mlflow.db")


main()
