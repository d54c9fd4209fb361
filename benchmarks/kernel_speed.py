"""Every kernel on this GPU: first whether it is right, then how fast it is beside what PyTorch offers.

    python benchmarks/kernel_speed.py --out FOLDER [--minutes 9] [--only attention splade ...] [--autotune] [--toy]

Writes FOLDER/kernels.json after every measurement (started again it goes on where it stopped), FOLDER/kernels.md, and
FOLDER/kernels.png where matplotlib is installed. No speed of a kernel is measured that disagrees with its twin; then
the exit code is 1. `--autotune` times block sizes and writes FOLDER/configs.json, to be copied to kernels/.
`--toy` runs everything at tiny sizes on any machine, with TRITON_INTERPRET=1 on one without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
if importlib.util.find_spec("decant") is None:  # a bare machine: this checkout's folders are the package
    _parent = Path(tempfile.mkdtemp())
    (_parent / "decant").symlink_to(Path(__file__).resolve().parent.parent)
    sys.path.insert(0, str(_parent))

from kernel_sections import SECTIONS
from kernel_tuning import autotune
from measuring import Bench, measure_limits


def main() -> int:
    """Check, measure, report; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--autotune", action="store_true")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.toy:
        print("no GPU here: run it with --toy and TRITON_INTERPRET=1", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    deadline = time.monotonic() + options.minutes * 60
    bench = Bench(device, options.toy, deadline, options.out / "kernels.json")
    bench.record["machine"] = machine(device)
    print(bench.record["machine"], flush=True)
    measure_limits(bench)
    wrong = 0
    for name in options.only:
        if bench.time_left() < 20:
            print(f"no time left for {name}: start again to go on")
            break
        check, speed = SECTIONS[name]
        problems = check(bench)
        bench.put("correct", name, "problems", problems)  # type: ignore[arg-type]
        for problem in problems:
            print(f"WRONG {name}: {problem}", flush=True)
        wrong += len(problems)
        if not problems:
            guarded(name, lambda speed=speed: speed(bench))
    if options.autotune and not wrong:
        autotune(bench, options.out / "configs.json")
    (options.out / "kernels.md").write_text(table(bench), encoding="utf-8")
    guarded("plot", lambda: plot(bench, options.out / "kernels.png"))
    return int(wrong > 0)


def guarded(name: str, run: Callable[[], object]) -> None:
    """A section that fails must not cost the others on a machine that is lent for minutes."""
    try:
        run()
    except Exception as error:
        print(f"{name} ended early: {type(error).__name__}: {error}", flush=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def machine(device: torch.device) -> dict[str, str]:
    """What the figures hold for."""
    import triton

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"device": name, "torch": torch.__version__, "triton": triton.__version__, "cuda": str(torch.version.cuda)}


def table(bench: Bench) -> str:
    """The record as Markdown, figures of each case beside those of its first contestant."""
    lines = [f"# Kernels on {bench.record['machine']['device']}", ""]
    for section, cases in bench.record.items():
        if section in ("machine", "limits", "correct"):
            continue
        lines += [
            f"## {section}",
            "",
            "| case | contestant | time | of Decant's | rates | peak MiB |",
            "|" + "---|" * 6,
        ]
        for case, contestants in cases.items():
            first = next((v["ms"] for v in contestants.values() if "ms" in v), None)
            for name, v in contestants.items():
                if "ms" not in v:
                    lines.append(f"| {case} | {name} | {v.get('failed', v)} | | | |")
                    continue
                rates = ", ".join(f"{k} {x}" for k, x in v.items() if k not in ("ms", "peak_mib"))
                lines.append(f"| {case} | {name} | {v['ms']} ms | {v['ms'] / first:.2f}x | {rates} | {v['peak_mib']} |")
        lines.append("")
    return "\n".join(lines) + "\n"


def plot(bench: Bench, file: Path) -> None:
    """Times relative to Decant's, a panel per section."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sections = {k: v for k, v in bench.record.items() if k not in ("machine", "limits", "correct")}
    figure, axes = pyplot.subplots(len(sections), 1, figsize=(9, 3 * len(sections)), squeeze=False)
    for axis, (section, cases) in zip(axes[:, 0], sections.items(), strict=True):
        names = list(dict.fromkeys(name for case in cases.values() for name, v in case.items() if "ms" in v))
        for i, name in enumerate(names):
            heights = [
                case[name]["ms"] / next(v["ms"] for v in case.values() if "ms" in v)
                if "ms" in case.get(name, {})
                else 0.0
                for case in cases.values()
            ]
            axis.bar([x + i * 0.8 / len(names) for x in range(len(cases))], heights, 0.8 / len(names), label=name)
        axis.set_xticks([x + 0.4 for x in range(len(cases))], list(cases), fontsize=6)
        axis.axhline(1.0, color="black", linewidth=0.5)
        axis.set_title(f"{section}: time relative to Decant's")
        axis.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
