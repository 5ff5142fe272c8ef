"""`senmon export --format parquet`, read by pandas (with pyarrow): every point of the API, with its types."""

import os
import subprocess

import pandas
import pytest
import world as worlds

pytest.importorskip("pyarrow")


def test_pandas_reads_every_point(world, client, experiment, tmp_path):
    file = tmp_path / "curves.parquet"
    line = [str(worlds.BUILT / "senmon"), "export", experiment["id"], "--format", "parquet", "--file", str(file)]
    environment = os.environ | {"SENMON_SERVER": world.url, "SENMON_TOKEN": world.token}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    frame = pandas.read_parquet(file)
    assert list(frame.columns[:6]) == ["experiment", "branch", "role", "step", "tokens", "time"]
    assert str(frame["time"].dtype) == "datetime64[ms, UTC]" and frame["step"].dtype == "int64"
    assert set(frame["experiment"]) == {experiment["name"]}
    curves = client.metrics_of(experiment)
    assert set(frame["branch"]) == set(curves)
    for name, metrics in curves.items():
        mine = frame[frame["branch"] == name]
        assert list(mine["step"]) == metrics.steps
        for key in metrics.names:
            assert mine[key].dtype == "float64"
            pandas.testing.assert_series_equal(
                mine[key].reset_index(drop=True), pandas.Series([row[key] for row in metrics.rows()], name=key), check_exact=True
            )
