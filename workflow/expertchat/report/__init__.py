"""Stage report: one self-contained page of the experiment's plots, tables and talk.

A module a section, each with a function `section` that turns results into blocks; `page` puts them
together. What models wrote enters the page only through autoescaped templates (see `wording.visible`).
"""

from expertchat.report.page import write_report

__all__ = ["write_report"]
