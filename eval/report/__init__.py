"""The HTML report of a comparison."""

from palestra.eval.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
