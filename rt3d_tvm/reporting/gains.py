"""What compiled models gained, over other engines and over the first of them."""

from __future__ import annotations

from collections.abc import Sequence


def gains(models: Sequence[dict], file: dict | None) -> list[dict]:
    """What each model gained in each batch: over each engine of its file, and the first model.

    One with other layers than the file's gained nothing over it.
    """
    found = []
    for place, model in enumerate(models):
        for here in model["batches"]:
            timed = [(file, each) for each in (file or {"batches": ()})["batches"]]
            others = [
                (file, timing)
                for file, each in timed
                if each["batch"] == here["batch"] and model["same_layers"]
                for timing in each["timings"]
            ]
            others += [
                (models[0], each["timing"])
                for each in models[0]["batches"]
                if place and each["batch"] == here["batch"]
            ]
            found += [_gain(model, here, other, timing) for other, timing in others]
    return found


def _gain(model: dict, here: dict, other: dict, timing: dict) -> dict:
    def ratio(key: str) -> float | None:
        before, now = other[key], model[key]
        return before / now if before and now else None

    # Another engine's memory was not measured.
    memory = ratio("memory_mb") if timing["engine"] in ("rt3d", "ONNX Runtime") else None
    return {
        "model": model["name"],
        "against": other["name"] if timing["engine"] == "rt3d" else timing["engine"],
        "batch": here["batch"],
        "ms": here["timing"]["p50_ms"],
        "ms_before": timing["p50_ms"],
        "times": timing["p50_ms"] / here["timing"]["p50_ms"],
        "times_smaller": ratio("bytes"),
        "times_less_memory": memory,
        "accuracy_before": other["accuracy"],
        "accuracy": model["accuracy"],
    }
