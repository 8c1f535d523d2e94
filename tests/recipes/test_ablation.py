"""Trainings without signals and for single prices."""

import json


def test_every_signal_and_price_is_compared_and_kept(few, allot, tmp_path):
    reference, out, results = tmp_path / "all", tmp_path / "runs", tmp_path / "ablation.md"
    given = ("--traces", few)
    short = ("--steps", 1024, "--num-envs", 64)
    allot("train", "--out", reference, *short, "--wandb", "disabled", *given)

    def ablate(*arguments):
        return json.loads(allot(*arguments, "--json", program="recipes.ablation").stdout)

    command = [reference, *given, "--out", out, "--steps", 1024, "--specialists", 1]
    command += ["--repeats", 1, "--num-envs", 64]
    tables = ablate(*command, "--results", results)
    assert {row["signal"] for row in tables["signals"]} >= {"votes", "log-probabilities"}
    (specialist,) = tables["specialists"]
    low, high = specialist["interval"]
    assert low <= specialist["lost"] <= high
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*/controller.json")}
    assert len(finished) == len(tables["signals"]) + 1
    assert ablate(*command) == tables
    assert all(path.stat().st_mtime_ns == then for path, then in finished.items())
    text = results.read_text()
    assert "| verifier scores |" in text
    assert f"python -m recipes.ablation {reference} --traces {few} --out {out} --steps 1024" in text
