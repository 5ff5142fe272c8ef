"""`/metrics` as Prometheus reads it, and what is made of it: the dashboard for Grafana, the rules for alerts."""

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
import world as worlds
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel
from prometheus_client.parser import text_string_to_metric_families

PROMTOOL = worlds.REPOSITORY / ".deps" / "prometheus" / "promtool"
if not PROMTOOL.exists():
    PROMTOOL = Path(shutil.which("promtool") or PROMTOOL)
DASHBOARD = worlds.REPOSITORY / "configs" / "grafana" / "senmon.json"
RULES = worlds.REPOSITORY / "configs" / "prometheus" / "senmon.yml"
needs_promtool = pytest.mark.skipif(
    not PROMTOOL.exists(), reason="promtool is not there; scripts/setup-interop fetches it"
)


@pytest.fixture(scope="module")
def scraped(world, experiment):
    headers = {"authorization": f"Bearer {world.token}", "accept": "text/plain;version=0.0.4"}
    with urllib.request.urlopen(urllib.request.Request(f"{world.url}/metrics", headers=headers)) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        return answer.read().decode()


@pytest.fixture(scope="module")
def families(scraped):
    return {family.name: family for family in text_string_to_metric_families(scraped)}


def promtool(*arguments, text=None):
    line = [str(PROMTOOL), *map(str, arguments)]
    return subprocess.run(line, input=text, capture_output=True, text=True, check=False)


def expressions():
    """Every expression of the dashboard and of the rules, as Prometheus gets it."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return [text.replace("$instance", ".*") for text in found]


def test_its_parser_reads_every_line(scraped, families):
    lines = [line for line in scraped.splitlines() if line and not line.startswith("#")]
    samples = [sample for family in families.values() for sample in family.samples]
    assert len(samples) == len(lines) and "unknown" not in {family.type for family in families.values()}
    assert all(family.documentation for family in families.values())
    values = {sample.name: sample.value for sample in samples if not sample.labels}
    assert values["senmon_workers_alive"] == 1 and values["senmon_slots"] == 2 and values["senmon_disk_free_bytes"] > 0
    causes = {sample.labels["cause"]: sample for sample in families["senmon_slot_seconds_last_hour"].samples}
    assert causes["productive"].labels["goodput"] == "true" and causes["productive"].value > 0


@needs_promtool
def test_its_own_program_finds_nothing_to_say(scraped):
    checked = promtool("check", "metrics", text=scraped)
    assert checked.returncode == 0 and not checked.stdout + checked.stderr, checked.stdout + checked.stderr


def test_the_dashboard_and_the_rules_ask_for_what_there_is(families):
    named = {name for text in [*expressions(), RULES.read_text()] for name in re.findall(r"\bsenmon_\w+", text)}
    assert named - set(families) == set() and len(named) >= 9
    selectors = re.findall(r"(senmon_\w+)\{([^}]*)\}", " ".join([*expressions(), RULES.read_text()]))
    labels = {(name, label) for name, inside in selectors for label in re.findall(r"(\w+)=", inside)}
    given = {(f.name, label) for f in families.values() for s in f.samples for label in s.labels}
    assert {(name, label) for name, label in labels if label not in ("instance", "job")} <= given


def lost(given, read, path="dashboard"):
    """Paths of what was given and is not what was read."""
    if isinstance(given, dict) and isinstance(read, dict):
        return [found for key in given for found in lost(given[key], read.get(key), f"{path}.{key}")]
    if isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        pairs = enumerate(zip(given, read, strict=True))
        return [found for i, (one, other) in pairs for found in lost(one, other, f"{path}[{i}]")]
    return [] if given == read else [path]


def test_the_dashboard_is_one_by_grafanas_own_schema():
    text = json.loads(DASHBOARD.read_text())
    read = Dashboard.from_json(text)
    # What the schema does not know is lost on the way.
    assert lost(text, json.loads(JSONEncoder().encode(read))) == []
    assert read.uid == "senmon" and len(read.panels) == len(text["panels"]) >= 10
    ids = [panel.id_val for panel in read.panels if isinstance(panel, Panel)]
    assert len(set(ids)) == len(ids) == len(read.panels)
    for panel in text["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24 and panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


@needs_promtool
def test_every_expression_is_one(tmp_path):
    rules = [{"record": f"a:{i}", "expr": text} for i, text in enumerate(expressions())]
    file = tmp_path / "expressions.json"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    for path, count in ((file, len(rules)), (RULES, 6)):
        checked = promtool("check", "rules", path)
        assert checked.returncode == 0 and f"{count} rules found" in checked.stdout, checked.stdout + checked.stderr


ALERTS = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{ series: 'up{{job="senmon", instance="a"}}', values: '1x10 0x20' }}
      - {{ series: 'senmon_jobs_queued{{instance="a"}}', values: '3x60' }}
      - {{ series: 'senmon_slots_busy{{instance="a"}}', values: '1x20 0x40' }}
      - {{ series: 'senmon_slot_seconds_last_hour{{instance="a", cause="productive", goodput="true"}}', values: '3000x60' }}
      - {{ series: 'senmon_slot_seconds_last_hour{{instance="a", cause="wasted", goodput="false"}}', values: '3000x60' }}
    alert_rule_test:
      - {{ eval_time: 10m, alertname: SenmonAway, exp_alerts: [] }}
      - eval_time: 15m
        alertname: SenmonAway
        exp_alerts: [{{ exp_labels: {{ severity: critical, job: senmon, instance: a }},
          exp_annotations: {{ summary: The Senmon server a does not answer. }} }}]
      - {{ eval_time: 25m, alertname: SenmonSlotsIdle, exp_alerts: [] }}
      - eval_time: 45m
        alertname: SenmonSlotsIdle
        exp_alerts: [{{ exp_labels: {{ severity: warning, instance: a }},
          exp_annotations: {{ summary: "3 jobs wait at a, and no slot works: senmon queue says what each waits for." }} }}]
      - eval_time: 45m
        alertname: SenmonGoodputLow
        exp_alerts: [{{ exp_labels: {{ severity: warning, instance: a }},
          exp_annotations: {{ summary: "50% of the slots' time counts at a: senmon goodput --fleet says where the rest goes." }} }}]
"""


@needs_promtool
def test_the_rules_tell_what_they_are_for(tmp_path):
    file = tmp_path / "alerts.yml"
    file.write_text(ALERTS.format(rules=RULES))
    checked = promtool("test", "rules", file)
    assert checked.returncode == 0, checked.stdout + checked.stderr
