"""Turn `pytest benches --benchmark-json=FILE` into the tables of benches/README.md.

`python -m benches.report FILE` prints the tables, `--write` puts them into benches/README.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

README = Path(__file__).with_name("README.md")
Record = Mapping[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; all columns but the first are right-aligned."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def seconds(row: Record) -> str:
    """Median and quartiles of a row in a unit that fits."""
    units = (("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9))
    unit, scale = next((u, s) for u, s in units if row["median"] * s >= 1)
    median, q1, q3 = (f"{row[key] * scale:.3g}" for key in ("median", "q1", "q3"))
    return f"{median} {unit} [{q1}, {q3}]"


def ratio(ratios: Sequence[Record], of: str, over: Sequence[str]) -> str:
    """The first ratio of `of` to one of `over`, with its spread and how it stands to its goal."""
    for entry in ratios:
        if entry["of"] == of and entry["over"] in over:
            text = f"{entry['median']:.2f}x [{entry['q1']:.2f}, {entry['q3']:.2f}]"
            return text + (" tie" if entry["tie"] else "") + verdict(entry)
    return ""


def verdict(entry: Record) -> str:
    """How a ratio stands to its goal; a goal inside the spread is neither reached nor missed."""
    goal = entry["goal"]
    if goal is None:
        return ""
    if entry["q1"] <= goal <= entry["q3"]:
        word = "within the spread"
    else:
        word = "reached" if entry["median"] > goal else "**missed**"
    return f", goal {goal:.3g}x {word}"


def groups(records: Iterable[Record], key: str) -> dict[str, list[Record]]:
    """Records by `case[key]`, in order of appearance."""
    found: dict[str, list[Record]] = {}
    for entry in records:
        found.setdefault(str(entry["case"][key]), []).append(entry)
    return found


def step_tables(records: Sequence[Record]) -> str:
    """One table per size: rules x threads, or on a GPU; ratios to torch and to the floor."""
    torch = ("torch fused", "torch foreach")
    streams = ("triad", "copy", "axpy in place")
    columns: dict[str, Callable[[Record], str]] = {
        "threads": lambda e: str(e["case"].get("threads", "")),
        "asyncopt": lambda e: seconds(e["rows"]["asyncopt"]),
        "x torch fused": lambda e: ratio(e["ratios"], "asyncopt", torch[:1]),
        "x torch foreach": lambda e: ratio(e["ratios"], "asyncopt", torch[1:]),
        "flat_grads x torch": lambda e: ratio(e["ratios"], "asyncopt flat_grads", torch),
        "bfloat16 state x torch": lambda e: ratio(e["ratios"], "asyncopt bfloat16 state", torch),
        "x of the floor": lambda e: ratio(e["ratios"], "asyncopt", streams),
        "GB/s": lambda e: f"{e['rows']['asyncopt']['gigabytes_per_second']:.1f}",
    }
    parts = []
    for size, entries in groups(records, "size").items():
        filled = {head: [cell(e) for e in entries] for head, cell in columns.items()}
        kept = {head: cells for head, cells in filled.items() if any(cells)}
        rows = zip((e["case"]["rule"] for e in entries), *kept.values(), strict=True)
        title = ", ".join(
            [size, *dict.fromkeys(e["case"]["gpu"] for e in entries if "gpu" in e["case"])]
        )
        parts.append(f"### Step: {title}\n\n" + table(["rule", *kept], rows))
    return "\n\n".join(parts)


def contention_tables(records: Sequence[Record]) -> str:
    """One table per overlap: syncs x workers in updates/s, then the ledger at most workers."""
    parts = []
    for overlap, entries in groups(records, "overlap").items():
        workers = [str(e["case"]["workers"]) for e in entries]
        last = entries[-1]
        head = ["updates/s at workers:", *workers]
        head += [f"{what} at {workers[-1]}" for what in ("lock waits/push", "retries/push", "lost")]
        rows = []
        for sync, most in last["rows"].items():
            rates = [f"{e['rows'][sync]['updates_per_second']:,.0f}" for e in entries]
            waits = f"{most['lock_waits_per_push']:.3g}" if "lock_waits_per_push" in most else ""
            retries = f"{most['retries_per_push']:.3g}" if "retries_per_push" in most else ""
            lost = f"{100 * most['lost_share']:.2g}%" if sync == "hogwild audited" else ""
            rows.append([sync, *rates, waits, retries, lost])
        for over, title in (("private", "of the floor"), ("hogwild audited", "audit slows by")):
            cells = [ratio(e["ratios"], "hogwild", [over]) for e in entries]
            rows.append([f"hogwild, {title}", *cells, "", "", ""])
        parts.append(f"### Contention: {overlap}\n\n" + table(head, rows))
    return "\n\n".join(parts)


def workers_table(records: Sequence[Record], title: str = "Workers") -> str:
    """Contenders of the convolutional net: throughput, loss, accuracy."""
    (entry,) = records
    (ours, *_) = entry["rows"]
    rows = []
    for name, row in entry["rows"].items():
        low, high = 1 / row["q3"], 1 / row["q1"]
        rows.append(
            [
                name,
                f"{row['images_per_second']:,.0f} [{low:,.0f}, {high:,.0f}]",
                ratio(entry["ratios"], ours, [name]),
                f"{row['train_loss']:.4f}",
                f"{row['test_accuracy']:.1%}",
            ]
        )
    head = ["contender", "images/s", f"{ours} x", "training loss", "test accuracy"]
    case = f"{entry['case']['model']}, {entry['case']['epochs']} epochs"
    return f"### {title}: {case}\n\n" + table(head, rows)


def folds_tables(records: Sequence[Record]) -> str:
    """Ways to train folds: seconds of a call and of its training; copies of the data."""
    parts = []
    for entry in records:
        case, rows = entry["case"], []
        if case["what"] == "memory":
            cells = [[name, f"{row['data_copies']:.2f}"] for name, row in entry["rows"].items()]
            title = f"### Cross-validation: memory, {case['data']}"
            parts.append(f"{title}\n\n" + table(["contender", "copies of the data"], cells))
            continue
        (ours, *_) = entry["rows"]
        for name, row in entry["rows"].items():
            rate = f"{row['images_per_second']:,.0f}"
            faster = ratio(entry["ratios"], ours, [name])
            rows.append([name, rate, faster, f"{row['test_accuracy']:.2%}"])
        head = ["contender", "images/s", f"{ours} x", "accuracy"]
        title = f"### Cross-validation: {case['what']}, {case['model']}"
        parts.append(f"{title}\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def embedding_table(records: Sequence[Record]) -> str:
    """Rules x what is timed x threads, beside each rival."""
    rows = []
    for entry in records:
        case, (ours, *rivals) = entry["case"], entry["rows"]
        for rival in rivals:
            times = (f"{seconds(entry['rows'][name])}" for name in (ours, rival))
            faster = ratio(entry["ratios"], ours, [rival])
            rows.append([case["rule"], case["what"], str(case["threads"]), rival, *times, faster])
    head = ["rule", "timed", "threads", "rival", "asyncopt", "the rival", "x the rival"]
    return "### Embedding: 1,000,000 x 64, 4,096 rows in a batch\n\n" + table(head, rows)


def models_table(
    records: Sequence[Record], title: str, unit: str = "nonzeros", score: str = "objective"
) -> str:
    """Contenders that train a model: speed and final score."""
    (entry,) = records
    (ours, *_) = entry["rows"]
    rate = f"{unit}_per_second"
    rows = [
        [
            name,
            f"{row[rate] / 1e6:,.{0 if row[rate] >= 1e8 else 1}f} M" if rate in row else "",
            seconds(row),
            ratio(entry["ratios"], ours, [name]),
            f"{row[score]:.4f}",
        ]
        for name, row in entry["rows"].items()
    ]
    head = ["contender", f"{unit}/s", "time", f"{ours} x", score]
    return f"### {title}\n\n" + table(head, rows)


def optimum_tables(records: Sequence[Record]) -> str:
    """One table per loss: solvers by the seconds and passes that they need."""
    parts = []
    for entry in records:
        (ours, *_) = entry["rows"]
        rows = [
            [name, seconds(row), str(row["passes"]), ratio(entry["ratios"], ours, [name])]
            for name, row in entry["rows"].items()
        ]
        head = ["contender", "time", "passes", f"{ours} x"]
        parts.append(f"### To the optimum of {entry['case']['loss']}\n\n" + table(head, rows))
    return "\n\n".join(parts)


def svmlight_tables(records: Sequence[Record]) -> str:
    """One table per text: readers in bytes of it per second."""
    parts = []
    for entry in records:
        (ours, *_) = entry["rows"]
        rows = [
            [
                name,
                f"{row['bytes_per_second'] / 1e6:,.0f} MB/s",
                ratio(entry["ratios"], ours, [name]),
            ]
            for name, row in entry["rows"].items()
        ]
        title = f"### {entry['case']['text']}, {entry['case']['bytes'] / 1e6:,.0f} MB"
        parts.append(f"{title}\n\n" + table(["reader", "text", f"{ours} x"], rows))
    return "\n\n".join(parts)


def contenders_tables(
    records: Sequence[Record],
    title: Callable[[Record], str],
    timed: str,
    more: str,
    cell: Callable[[Record], str],
) -> str:
    """One table per case, which `title` names: contenders in seconds, and a column `more`."""
    parts = []
    for entry in records:
        (ours, *_) = entry["rows"]
        rows = [
            [name, seconds(row), ratio(entry["ratios"], ours, [name]), cell(row)]
            for name, row in entry["rows"].items()
        ]
        head = ["contender", timed, f"{ours} x", more]
        parts.append(f"### {title(entry['case'])}\n\n" + table(head, rows))
    return "\n\n".join(parts)


def modes_table(records: Sequence[Record]) -> str:
    """Measured time of every mode, and its ratio to the prediction."""
    rows = []
    for entry in records:
        case = entry["case"]
        asked = f"{case['parameters'] / 1e6:g}M, {case['compute'] * 1e3:g} ms"
        for pair in entry["ratios"]:
            mode = pair["of"].partition(", ")[2]
            measured, predicted = (seconds(entry["rows"][pair[side]]) for side in ("of", "over"))
            faster = ratio(entry["ratios"], pair["of"], [pair["over"]])
            rows.append([asked, str(case["workers"]), mode, measured, predicted, faster])
    head = ["parameters, computing", "workers", "mode", "a batch, measured", "predicted", "faster"]
    return "### Modes: Adam on the processor\n\n" + table(head, rows)


SUITES: dict[str, Callable[[Sequence[Record]], str]] = {
    "step": step_tables,
    "cuda": step_tables,
    "embedding": embedding_table,
    "linear": functools.partial(models_table, title="A pass, seconds per nonzero"),
    "linear fit": functools.partial(models_table, title="A fit of ten passes"),
    "linear text": functools.partial(
        models_table, title="The hinge loss on text, seconds per nonzero"
    ),
    "linear optimum": optimum_tables,
    "ordered": functools.partial(models_table, title="Examples that seldom share a column"),
    "custom": functools.partial(models_table, title="A loss written in Python"),
    "ranking": functools.partial(
        models_table, title="Ranking, seconds per sample", unit="samples", score="area"
    ),
    "cuts": functools.partial(
        models_table, title="Graph cuts, seconds per edge", unit="edges", score="cut"
    ),
    "svmlight": svmlight_tables,
    "contention": contention_tables,
    "start": functools.partial(
        contenders_tables,
        title=lambda case: f"{case['workers']} workers",
        timed="seconds",
        more="memory of a worker",
        cell=lambda row: f"{row['bytes'] / 2**20:,.0f} MiB",
    ),
    "workers": workers_table,
    "devices": functools.partial(
        contenders_tables,
        title=lambda case: f"{case['device']}, {case['shape']}",
        timed="seconds per step and worker",
        more="transfers hidden",
        cell=lambda row: f"{row['hidden']:.1%}" if "hidden" in row else "",
    ),
    "averaging": functools.partial(workers_table, title="Averaging between ranks"),
    "folds": folds_tables,
    "telemetry": functools.partial(workers_table, title="Telemetry"),
    "modes": modes_table,
}


def machine(info: Record, records: Sequence[Record]) -> str:
    """The line at the top of every suite's tables: machine, versions, command, disturbance."""
    others = [entry["others"] for entry in records]
    quick = " **--quick: not a measurement.**" if info["quick"] else ""
    command = re.sub(r"(--benchmark-json=)\S*/", r"\1", info["command"])  # no path of that machine
    return (
        f"{info['cpu']}, {info['cores']} cores, {info['isa']}; asyncopt {info['version']}, "
        f"torch {info['torch']}, Python {info['python']}; `{command}`. Other programs took "
        f"{statistics.median(others):.0%} of the cores' time (at most {max(others):.0%}).{quick}"
    )


def render(measured: Record) -> dict[str, str]:
    """Markdown of every suite in a pytest-benchmark JSON."""
    records = [bench["extra_info"] for bench in measured["benchmarks"]]
    info = measured["machine_info"]["asyncopt"]
    found = {suite: [r for r in records if r.get("suite") == suite] for suite in SUITES}
    return {
        suite: f"{machine(info, some)}\n\n{SUITES[suite](some)}"
        for suite, some in found.items()
        if some
    }


def write(sections: Mapping[str, str], readme: Path = README) -> None:
    """Replace the text between `<!-- suite -->` and `<!-- /suite -->`."""
    text = readme.read_text()
    for suite, section in sections.items():
        before, begin, rest = text.partition(f"<!-- {suite} -->\n")
        _, end, after = rest.partition(f"<!-- /{suite} -->")
        if not end:
            raise SystemExit(f"{readme}: expected the markers of {suite!r}, found none")
        text = before + begin + section + "\n" + end + after
    readme.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="what pytest wrote with --benchmark-json")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    arguments = parser.parse_args()
    sections = render(json.loads(arguments.file.read_text()))
    if arguments.write:
        write(sections)
    else:
        print("\n\n".join(sections.values()))


if __name__ == "__main__":
    main()
