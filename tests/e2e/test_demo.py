"""The main job on the real sentence model, as `make demo ARGS=--fast` runs it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def test_the_demo_promotes_the_sound_variant_and_removes_the_harmful_one(demo_state: Path) -> None:
    anabranch = [sys.executable, "-m", "anabranch.cli.main"]
    ran = subprocess.run(
        [*anabranch, "demo", "--fast", "--state", str(demo_state), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert "removed onnx-int8-static-kl: " in ran.stdout

    store = f"sqlite:///{demo_state / 'anabranch.db'}"

    def look(*arguments: str) -> str:
        looked = subprocess.run(
            [*anabranch, *arguments, "--store", store], capture_output=True, text=True, timeout=60
        )
        assert looked.returncode == 0, looked.stderr
        return looked.stdout

    seen: dict[str, Any] = json.loads(look("get", "minilm-int8", "-o", "json"))
    assert (seen["phase"], seen["winner"]) == ("Promoted", "onnx-int8-dynamic")
    decisions = json.loads(look("history", "minilm-int8", "-o", "json"))
    assert {"removed", "weights", "winner"} <= {a["change"] for d in decisions for a in d["actions"]}
    assert "onnx-int8-dynamic" in look("describe", "minilm-int8")
    assert "onnx-int8-static-kl" in (demo_state / "report.md").read_text()
    look("verify", "minilm-int8")
