"""Metrics for dashboards and alerts: names, labels, and none of tenants that were deleted."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from media_operator.metrics import Metrics, Snapshot, TenantFacts
from tests.stopwatch import Stopwatch

CHART = Path(__file__).parents[3] / "charts" / "media-platform" / "files"
ACME = TenantFacts(
    namespace="team",
    tenant="acme",
    conditions={"Ready": "False", "BucketReady": "True"},
    reasons={"Ready": "DataMismatch"},
    orphans=(12, 4096),
    lost=3,
    used_bytes=7,
    quota_bytes=100,
    files=4,
    quota_files=5,
    queues={"scan": (3, 2, 1, 12.5, 4)},
    jobs={("scan", "running"): 2, ("scan", "failed"): 1},
)
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(metrics: Metrics) -> Series:
    found: Series = {}
    for family in text_string_to_metric_families((await metrics.text()).decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found  # Prometheus keeps any one of two that differ
            found[key] = sample.value
    return found


def series(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


async def test_a_tenant_s_series() -> None:
    found = await scrape(Metrics(lambda: Snapshot(True, 1.5, [ACME])))
    at = {"tenant": "acme", "namespace": "team"}
    expected = {
        series("media_leader"): 1,
        series("media_watch_last_event_age_seconds"): 1.5,
        series("media_tenant_condition", **at, type="Ready", status="True"): 0,
        series("media_tenant_condition", **at, type="Ready", status="False"): 1,
        series("media_tenant_condition", **at, type="Ready", status="Unknown"): 0,
        series("media_tenant_condition", **at, type="BucketReady", status="True"): 1,
        series("media_tenant_condition", **at, type="BucketReady", status="False"): 0,
        series("media_tenant_condition", **at, type="BucketReady", status="Unknown"): 0,
        series("media_tenant_condition_reason", **at, type="Ready", reason="DataMismatch"): 1,
        series("media_tenant_orphan_objects", **at): 12,
        series("media_tenant_orphan_bytes", **at): 4096,
        series("media_tenant_lost_objects", **at): 3,
        series("media_tenant_usage_bytes", **at): 7,
        series("media_tenant_quota_bytes", **at): 100,
        series("media_tenant_usage_files", **at): 4,
        series("media_tenant_quota_files", **at): 5,
        series("media_queue_depth", **at, kind="scan", state="ready"): 3,
        series("media_queue_depth", **at, kind="scan", state="leased"): 2,
        series("media_queue_depth", **at, kind="scan", state="waiting"): 1,
        series("media_queue_oldest_seconds", **at, kind="scan"): 12.5,
        series("media_queue_failed_last_hour", **at, kind="scan"): 4,
        series("media_jobs", **at, kind="scan", state="running"): 2,
        series("media_jobs", **at, kind="scan", state="failed"): 1,
    }
    assert {key: value for key, value in found.items() if key in expected or "acme" in str(key)} == expected


async def test_series_of_a_tenant_that_is_gone_are_gone() -> None:
    tenants = [ACME]
    metrics = Metrics(lambda: Snapshot(True, 0, tenants))
    assert "acme" in str(await scrape(metrics))
    tenants.clear()
    assert "acme" not in str(await scrape(metrics))


async def test_what_is_not_known_is_not_said() -> None:
    found = await scrape(Metrics(lambda: Snapshot(True, 0, [TenantFacts("team", "new")])))
    assert "new" not in str(found)


async def test_of_clamd_only_what_is_known_is_said() -> None:
    up, age = series("media_clamd_up"), series("media_clamd_signatures_age_seconds")
    told = [
        await scrape(Metrics(lambda clamd=clamd: Snapshot(True, 0, (), *clamd)))  # type: ignore[misc]
        for clamd in ((None, None), (False, None), (True, None), (True, 90.5))
    ]
    assert [found.get(up) for found in told] == [None, 0, 1, 1]
    assert [found.get(age) for found in told] == [None, None, None, 90.5]


async def test_passes_and_requests_are_counted() -> None:
    metrics = Metrics(lambda: Snapshot(False, 0))
    metrics.reconciled("ready", 0.03)
    metrics.reconciled("ready", 7)
    metrics.reconciled("unsettled", 0.1)
    metrics.requested("patch", "Deployment", 200)
    metrics.requested("list", "Secret", 0)
    found = await scrape(metrics)
    assert found[series("media_leader")] == 0
    assert found[series("media_reconcile_total", outcome="ready")] == 2
    assert found[series("media_reconcile_total", outcome="unsettled")] == 1
    assert found[series("media_reconcile_seconds_bucket", le="0.05")] == 1
    assert found[series("media_reconcile_seconds_count")] == 3
    assert found[series("media_kubernetes_requests_total", verb="patch", kind="Deployment", code="200")] == 1
    assert found[series("media_kubernetes_requests_total", verb="list", kind="Secret", code="0")] == 1
    assert found[series("process_resident_memory_bytes")] > 0


async def test_ids_with_odd_characters_do_not_break_the_format() -> None:
    odd = TenantFacts("team", 'a"b\\c\nd', {"Ready": "True"})
    assert 'a"b\\c\nd' in {
        dict(labels).get("tenant") for _, labels in await scrape(Metrics(lambda: Snapshot(True, 0, [odd])))
    }


async def test_an_id_that_is_declared_twice_has_the_series_of_whoever_has_it() -> None:
    second = TenantFacts("team", "acme", {"Accepted": "False", "Ready": "False"})
    first = TenantFacts("team", "acme", {"Accepted": "True", "Ready": "True"})
    found = await scrape(Metrics(lambda: Snapshot(True, 0, [second, first])))
    ready = series("media_tenant_condition", tenant="acme", namespace="team", type="Ready", status="True")
    assert found[ready] == 1


@pytest.mark.parametrize("path", [*CHART.rglob("*.json"), CHART / "alerts.yaml"], ids=lambda path: path.name)
async def test_dashboards_and_alerts_ask_for_what_there_is(path: Path) -> None:
    metrics = Metrics(lambda: Snapshot(True, 0, [ACME], True, 60))
    metrics.reconciled("ready", 1)
    metrics.requested("patch", "Deployment", 200)
    there = {name: {label for label, _ in labels} | {"job", "instance"} for name, labels in await scrape(metrics)}
    asked = [
        (name, label)
        for expression in _expressions(yaml.safe_load(path.read_bytes()))  # noqa: ASYNC240
        for name, selectors in re.findall(r"\b(media_(?!api)\w+)(?:{([^}]*)})?", expression)
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selectors) or ["job"]
    ]
    assert asked
    assert [(name, label) for name, label in asked if label not in there.get(name, ())] == []


def _expressions(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["expr"]] if isinstance(part.get("expr"), str) else []
        return own + [found for each in part.values() for found in _expressions(each)]
    return [found for each in part for found in _expressions(each)] if isinstance(part, list) else []


async def test_a_scrape_of_a_thousand_tenants_leaves_the_loop_to_others() -> None:
    conditions = dict.fromkeys("abcdefghijk", "True")
    queues = dict.fromkeys(("scan", "transcribe", "thumbnail"), (1, 1, 1, 1.0, 1))
    tenants = [TenantFacts("team", f"t{number}", conditions, 1, 2, queues) for number in range(1000)]
    metrics = Metrics(lambda: Snapshot(True, 0, iter(tenants)))
    began = Stopwatch()
    scraping = asyncio.create_task(metrics.text())
    turns = 0
    while not scraping.done():
        await asyncio.sleep(0.005)
        turns += 1
    assert turns > began.seconds() / 0.1
    assert len(scraping.result().splitlines()) > 45_000
