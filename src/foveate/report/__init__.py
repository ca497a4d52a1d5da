"""The report: one HTML file from studies, with everything inside; it imports no torch and needs no network.

foveate.report.write_report("report.html", ["studies/compare-20260101-120000"])
"""

from .page import page, write_report

__all__ = ["page", "write_report"]
