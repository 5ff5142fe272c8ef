"""`senmon.wandb.export`: offline runs that Weights & Biases' own package writes, read back from their files."""

import math

import offline
import senmon
import senmon.wandb


def runs(folder):
    return {path.name.split("-", 3)[3]: path for path in folder.glob("wandb/offline-run-*")}


def test_a_branch_is_an_offline_run(client, experiment, tmp_path):
    written = senmon.wandb.export("interop", tmp_path, project="domains", client=client)
    curves = client.metrics_of(experiment)
    assert set(written) == set(curves) and set(written.values()) == set(runs(tmp_path).values())
    for branch in experiment["branches"]:
        if branch["name"] not in curves:
            continue
        file = written[branch["name"]] / f"run-{branch['id']}.wandb"
        (run,) = [record.run for record in offline.records(file) if record.WhichOneof("record_type") == "run"]
        assert (run.run_id, run.display_name, run.run_group) == (branch["id"], branch["name"], "interop")
        assert (run.project, run.job_type) == ("domains", branch["role"])
        assert run.notes == client.report(experiment)["headline"]
        config = {update.key: update.value_json for update in run.config.update}
        assert config["model.hidden_size"] == '"32"' and config["senmon.branch_id"] == f'"{branch["id"]}"'
        rows = curves[branch["name"]].rows()
        logged = list(offline.history(file))
        assert [row["_step"] for row in logged] == [row["step"] for row in rows]
        for row, found in zip(rows, logged, strict=True):
            values = {
                name: value for name, value in row.items() if name not in ("step", "at_ms") and not math.isnan(value)
            }
            assert {name: found[name] for name in found if not name.startswith("_")} == values
            assert found["_timestamp"] == row["at_ms"] / 1000


def test_a_run_is_written_once_and_one_that_was_stopped_anew(client, experiment, tmp_path):
    first = senmon.wandb.export(experiment, tmp_path, client=client)
    times = {name: path.stat().st_mtime_ns for name, path in first.items()}
    # What a stop in the middle leaves.
    first["dense"].rename(tmp_path / "wandb" / ".unfinished-x")
    again = senmon.wandb.export(experiment, tmp_path, client=client)
    assert set(again) == set(first) and len(runs(tmp_path)) == len(first)
    assert {n: p.stat().st_mtime_ns for n, p in again.items() if n != "dense"} == {
        n: at for n, at in times.items() if n != "dense"
    }
