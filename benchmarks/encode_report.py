"""What `encode.py` found, as a table, a record and a plot."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any


def processor() -> str:
    """Model of this machine's processor, and what it multiplies fast."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    fast = [flag for flag in ("avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8") if flag in facts.get("flags", "")]
    return f"{facts.get('model name', platform.machine())}, family {facts.get('cpu family', '?')} ({', '.join(fast)})"


def write_report(record: dict[str, Any], folder: Path | None) -> None:
    """Print the newest table; keep record, tables and plot where there is a folder for them."""
    print(table(record, list(record["results"])[-1:]), flush=True)
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "encode.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / "encode.md").write_text(table(record, list(record["results"])) + "\n", encoding="utf-8")
    plot(record, folder / "encode.png")


def table(record: dict[str, Any], sets: list[str]) -> str:
    """Markdown: a row per contestant; speed and lowest cosine per set of texts."""
    heads = [f"{name}: speed | lowest cosine" for name in sets]
    rows = [f"| {record['clock']}, {record['threads']} threads | " + " | ".join(heads) + " |"]
    rows.append("|---" * (1 + 2 * len(sets)) + "|")
    names = list(dict.fromkeys(name for found in record["results"].values() for name in found))
    for name in names:
        cells: list[str] = []
        for kind in sets:
            line = record["results"][kind].get(name, {})
            cells.append(f"{line['speed']:.2f}x" if "speed" in line else "not shown")
            cells.append(f"{line['cosine']:.6f}" if "cosine" in line else "failed")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def plot(record: dict[str, Any], file: Path) -> None:
    """Draw speeds as bars, a panel per set of texts; who made other vectors has no bar."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    sets = list(record["results"])
    names = list(dict.fromkeys(name for found in record["results"].values() for name in found))[::-1]
    figure, axes = plt.subplots(
        1, len(sets), figsize=(4.2 * len(sets), 0.34 * len(names) + 1.2), sharey=True, squeeze=False
    )
    for axis, kind in zip(axes[0], sets, strict=True):
        speeds = [record["results"][kind].get(name, {}).get("speed", 0.0) for name in names]
        colours = ["tab:blue" if name.startswith("Decant") else "0.7" for name in names]
        axis.barh(names, speeds, color=colours)
        for row, speed in enumerate(speeds):
            axis.text(speed, row, f" {speed:.1f}x" if speed else " other vectors", va="center", fontsize=8)
        axis.set_title(f"{kind} texts", fontsize=10)
        axis.margins(x=0.18)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Speed against sentence-transformers float32, {record['processor']}", fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
