"""The report: a workdir read back, as tables, pictures and a page."""
