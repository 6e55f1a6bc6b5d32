"""`generate-report`: a table of any shape becomes one page a person can read, print and pass on.

The API imports this module for its types, so the engine (DuckDB, matplotlib) loads inside the function.
"""

from todoke.jobs.catalog import job
from todoke.jobs.context import JobContext
from todoke.jobs.report.contract import Report, ReportParams

__all__ = ["Report", "ReportParams", "generate_report"]


@job("generate-report", timeout=300, max_attempts=3, isolation="process")
def generate_report(params: ReportParams, ctx: JobContext) -> Report:
    """Profile every column of a table and deliver the report as one HTML page.

    The table is `csv`, `rows` or `geojson`; without any of them the job activity of the tenant.
    Attaches `report.html`. Raises Fail with a sentence for a person when the data cannot be read as a table.
    """
    from todoke.jobs.report.build import build  # noqa: PLC0415 - keeps the engine out of the API process

    return build(params, ctx)
