"""What ``gate`` prints and the files that it writes."""

from __future__ import annotations

import argparse
import json
import sys

from attention_gate.verify.commands.command_line import CONFORMS, DOES_NOT
from attention_gate.verify.report import plots
from attention_gate.verify.report.drift import drift, read_report
from attention_gate.verify.report.markdown import markdown
from attention_gate.verify.report.terminal import is_rich
from attention_gate.verify.report.text import text
from attention_gate.verify.report.whole_files import check_writable, write_whole
from attention_gate.verify.run.judgement import Report


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """The options that name files to write."""
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON")
    parser.add_argument("--junit", metavar="FILE", help="write the report as JUnit XML")
    parser.add_argument(
        "--html", metavar="FILE", help="write the report as one HTML file with pictures (needs attention-gate[report])"
    )
    parser.add_argument("--markdown", metavar="FILE", help="write a summary as Markdown, for a pull request")
    parser.add_argument(
        "--compare-with",
        metavar="FILE",
        help="an earlier report of --json: say what regressed, passes now, uses more of its error budget or moves more "
        "bytes; the exit status is 1 if something did, 0 if nothing did, whatever failed before too",
    )


def check_outputs(options: argparse.Namespace) -> None:
    """ValueError, before the work, for a file that could not be written after it."""
    for path in (options.json, options.junit, options.html, options.markdown):
        if path is not None:
            check_writable(path)
    if options.compare_with is not None:
        options.compare_with = read_report(options.compare_with)
    if options.html is not None:
        plots.needed()


def tell(report: Report, options: argparse.Namespace) -> int:
    """Print the report and write the files; returns the exit status."""
    changes = None if options.compare_with is None else drift(options.compare_with, report.document())
    if is_rich(sys.stdout):
        from attention_gate.verify.report.coloured import show

        show(report, changes)
    else:
        print(text(report, changes))
    if options.json is not None:
        write_whole(options.json, json.dumps(report.to_json(), indent=2) + "\n")
    if options.junit is not None:
        from attention_gate.verify.report.junit import junit

        write_whole(options.junit, junit(report))
    if options.html is not None:
        from attention_gate.verify.report.page import html

        write_whole(options.html, html(report, changes))
    if options.markdown is not None:
        write_whole(options.markdown, markdown(report, changes))
    if changes is not None and report.exit_status in (CONFORMS, DOES_NOT):
        return DOES_NOT if changes.worse else CONFORMS
    return report.exit_status
