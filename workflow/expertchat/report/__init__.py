"""Stage report: one self-contained HTML page with the experiment's figures, tables and dialogues.

Each section of the page has a module with a function `section` that turns results into blocks; `page`
renders them. Text written by models enters the page only through autoescaped templates (see
`wording.visible`).
"""
