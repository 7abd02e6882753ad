#!/usr/bin/python3
"""Medians and ratios of what streams.sh or restore.sh measured.

    table.py CSV SUBJECT,SUBJECT...    lines of work,subject,unit,value; prints a Markdown table for
                                       each list of subjects, of whose first one the ratios are
"""
import collections
import csv
import statistics
import sys

runs = collections.defaultdict(list)
works, subjects, units = {}, {}, {}
with open(sys.argv[1]) as file:
    for work, subject, unit, value in csv.reader(file):
        runs[work, subject].append(float(value))
        works[work] = subjects[subject] = None
        units[work] = unit


def row(cells):
    print("| " + " | ".join(cells) + " |")


def shown(work, subject):
    values = runs.get((work, subject))
    if not values:
        return "-"
    median = statistics.median(values)
    return f"{median:,.0f}" if median >= 100 else f"{median:.1f}"


def table(names):
    row(["work", *names, *(f"{names[0]} : {name}" for name in names[1:]), "runs"])
    row(["---"] * (2 * len(names) + 1))
    for work in works:
        if (work, names[0]) not in runs:
            continue
        medians = {name: statistics.median(runs[work, name]) for name in names if runs[work, name]}
        ratios = [f"{medians[names[0]] / medians[name]:.2f}" if name in medians else "-"
                  for name in names[1:]]
        counts = "/".join(str(len(runs[work, name])) for name in names)
        row([f"{work}, {units[work]}", *(shown(work, name) for name in names), *ratios, counts])
    print()


for names in sys.argv[2:]:
    table(names.split(","))
