"""Stage report: one self-contained page of the experiment's plots, tables and talk.

Each section of the page has a module with a function `section` that turns results into blocks; `page`
puts them together. What models wrote enters the page only through autoescaped templates (see
`wording.visible`).
"""
