"""The report: one page that opens from disk, with its tables and figures."""
