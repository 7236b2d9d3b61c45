"""The alerts and the dashboard that come along ask for metrics that there are, in a language that Prometheus knows."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from cardferry.app.metrics.registry import registry
from tests.app.metrics.test_metrics import host

CONTRIB = Path(__file__).parents[3] / "contrib"
RULES = CONTRIB / "prometheus" / "alerts.yml"
DASHBOARD = CONTRIB / "grafana" / "dashboard.json"


def promtool(*words: str) -> str:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False, cwd=RULES.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_promtool_likes_the_alerts_and_they_ring_when_they_should() -> None:
    assert "3 rules found" in promtool("check", "rules", RULES.name)
    promtool("test", "rules", "alerts.test.yml")


def test_promtool_likes_what_the_dashboard_asks(tmp_path: Path) -> None:
    asked = [each.replace("$__rate_interval", "5m").replace("$reader", ".*") for each in expressions()]
    rules = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(asked)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # YAML knows JSON
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(path))


@pytest.mark.parametrize("words", [RULES.read_text(), " ".join(expressions())], ids=["alerts", "dashboard"])
async def test_what_they_ask_for_is_told(tmp_path: Path, words: str) -> None:
    async with host(tmp_path) as opened:
        told = generate_latest(registry(opened)).decode()
    for name in re.findall(r"cardferry_\w+", words):
        assert f"# TYPE {name} " in told, name


def test_promtool_likes_the_metrics(tmp_path: Path) -> None:
    async def tell() -> bytes:
        async with host(tmp_path) as opened:
            return generate_latest(registry(opened))

    told = asyncio.run(tell())
    done = subprocess.run(["promtool", "check", "metrics"], input=told, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b""), done.stdout + done.stderr
