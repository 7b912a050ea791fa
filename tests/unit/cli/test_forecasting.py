"""`forecast` and `get --classes`: what is kept of requests, as people read it."""

import json
from typing import Any

import pytest

from anabranch.router.forecast import model
from anabranch.store.ledger_port import Catalog
from anabranch.store.volume_port import SLOT_S, Volume

Shell = Any
NOW = 1_800_000_100.0
END = int(NOW // SLOT_S) * SLOT_S


def fill(shell: Shell) -> None:
    shell.clock.at_s = NOW
    store = shell.store()
    store.volumes.add(
        [
            Volume(model="minilm", level=level, slot_s=END - place * SLOT_S, requests=3000, within=within)
            for level, within in (("batch", 3000), ("realtime", 1500))
            for place in range(1, 40)
        ]
    )
    store.ledger.save_catalog(
        Catalog(variants={}, webhook_hosts=(), at_s=NOW, class_targets_ms={"realtime": 30.0})
    )
    store.close()


def test_classes_are_listed_with_their_targets_and_what_they_kept_of_them(shell: Shell) -> None:
    fill(shell)
    header, urgent, batch = shell("get", "--classes").out.splitlines()
    assert header.split() == ["MODEL", "CLASS", "REQ/S", "P99", "TARGET", "WITHIN", "(1", "H)"]
    assert urgent.split() == ["minilm", "realtime", "10", "30.0", "ms", "50%"]
    assert batch.split() == ["minilm", "batch", "10", "5,000", "ms", "100%"]
    [first, _] = json.loads(shell("get", "--classes", "-o", "json").out)
    assert (first["level"], first["target_ms"], first["within"]) == ("realtime", 30.0, 0.5)
    assert shell("get", "minilm", "--classes").code == 2


def test_the_next_quarter_of_an_hour_is_a_table_or_json(shell: Shell) -> None:
    fill(shell)
    header, urgent, _ = shell("forecast", "minilm").out.splitlines()
    assert "NEXT 15 MIN" in header
    assert urgent.split()[6:9] == ["10", "10", "level"]
    [row, _] = json.loads(shell("forecast", "-o", "json").out)
    assert row["mean"] == pytest.approx(10.0, rel=0.01)
    assert row["high"] >= row["mean"]
    ran = shell("forecast", "other")
    assert ran.code == 3
    assert "there are: minilm" in ran.err


def test_without_the_extra_it_says_what_to_install(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(shell)

    def missing() -> type:
        raise model.ForecastUnavailable("a forecast needs statsforecast: pip install 'anabranch[forecast]'")

    monkeypatch.setattr(model, "_auto_ets", missing)
    ran = shell("forecast")
    assert (ran.code, ran.out) == (2, "")
    assert "pip install 'anabranch[forecast]'" in ran.err


def test_a_server_is_no_store(shell: Shell) -> None:
    ran = shell("forecast", "--store", "127.0.0.1:8002")
    assert ran.code == 2
    assert "volumes of requests are kept in the store" in ran.err


def test_without_requests_there_is_nothing_to_forecast(shell: Shell) -> None:
    shell.store().close()
    assert "no requests are kept yet" in shell("forecast").err
    assert "no requests in the last hour" in shell("get", "--classes").err
