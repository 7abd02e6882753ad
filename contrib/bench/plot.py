"""Medians and ratios of what peers.py measured: as a Markdown table, and as a plot."""
import datetime
import html
import itertools
import math
import os
import platform
import statistics

OURS = "qcowfs"
# Less is better.
COSTS = {"ms", "s", "MiB"}
COLOURS = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000",
           "#ee7733", "#009988"]


def medians(values):
    """{(group, work, unit): {subject: median}} in the order of the first value."""
    runs = {}
    for group, work, subject, unit, value in values:
        runs.setdefault((group, work, unit), {}).setdefault(subject, []).append(value)
    return {key: {subject: statistics.median(all_) for subject, all_ in subjects.items()}
            for key, subjects in runs.items()}


def ratio(unit, ours, theirs):
    """How many times better than theirs."""
    if not ours or not theirs:
        return math.nan
    return theirs / ours if unit in COSTS else ours / theirs


def machine():
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo")
                  if line.startswith("model name")), platform.machine())
    return (f"{datetime.date.today()}, {os.cpu_count()} cores, {model}, "
            f"Linux {platform.release()}")


def shown(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def table(values):
    found = medians(values)
    subjects = list(dict.fromkeys(name for row in found.values() for name in row))
    peers = [name for name in subjects if name != OURS]
    print(f"\n{machine()}; medians; in brackets: how many times better qcowfs is\n")
    print("| data | work | " + " | ".join([OURS, *peers]) + " |")
    print("| --- " * (len(peers) + 3) + "|")
    for (group, work, unit), row in found.items():
        ours = row.get(OURS)
        cells = [f"{shown(ours)} {unit}" if ours is not None else "-"]
        for peer in peers:
            if peer in row:
                better = ratio(unit, ours, row[peer])
                cells.append(f"{shown(row[peer])} ({better:.2f})")
            else:
                cells.append("-")
        print(f"| {group} | {work} | " + " | ".join(cells) + " |")


def svg(values, path):
    """Bars on a logarithmic scale: how many times better than each peer."""
    bars = [(f"{group}: {work}", peer, ratio(unit, row[OURS], median))
            for (group, work, unit), row in medians(values).items() if OURS in row
            for peer, median in row.items() if peer != OURS and unit != "MiB"]
    bars = [bar for bar in bars if bar[2] == bar[2] and bar[2] > 0]
    if not bars:
        return
    peers = dict.fromkeys(peer for _, peer, _ in bars)
    colours = dict(zip(peers, itertools.cycle(COLOURS)))
    # The legend has so many in a line, and what is below it begins so much further down.
    in_line = 5
    top = 16 * ((len(peers) - 1) // in_line)
    low, high = -1, max(1, math.ceil(math.log10(max(bar[2] for bar in bars))))
    left, width, step = 380, 480, 14
    height = 60 + top + step * len(bars)

    def x(value):
        return left + (min(max(math.log10(value), low), high) - low) * width / (high - low)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 60}" '
             f'height="{height}" font-family="sans-serif" font-size="10">',
             '<rect width="100%" height="100%" fill="white"/>']
    for power in range(low, high + 1):
        at = x(10 ** power)
        parts.append(f'<line x1="{at}" x2="{at}" y1="{top + 40}" y2="{height}" stroke="#ddd"/>'
                     f'<text x="{at}" y="{top + 36}" text-anchor="middle">{10 ** power:g} x</text>')
    for number, (peer, colour) in enumerate(colours.items()):
        at, y = 10 + 165 * (number % in_line), 8 + 16 * (number // in_line)
        parts.append(f'<rect x="{at}" y="{y}" width="10" height="10" fill="{colour}"/>'
                     f'<text x="{at + 14}" y="{y + 9}">{html.escape(peer)}</text>')
    before = None
    for number, (work, peer, better) in enumerate(bars):
        y = top + 46 + step * number
        if work != before:
            parts.append(f'<text x="{left - 6}" y="{y + 9}" text-anchor="end">'
                         f'{html.escape(work)}</text>')
        before = work
        start, end = sorted([x(1), x(better)])
        parts.append(f'<rect x="{start}" y="{y}" width="{max(end - start, 1)}" height="{step - 3}" '
                     f'fill="{colours[peer]}"/>'
                     f'<text x="{end + 3}" y="{y + 9}">{better:.1f}</text>')
    at = x(1)
    parts.append(f'<line x1="{at}" x2="{at}" y1="{top + 40}" y2="{height}" stroke="black"/></svg>')
    with open(path, "w") as file:
        file.write("\n".join(parts))
