"""What goes into a report job and what comes out of it. Imports nothing heavy: the API reads this."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

Scalar = None | bool | int | float | str
Fields = dict[str, Scalar]
Kind = Literal["integer", "number", "boolean", "date", "datetime", "text"]
Source = Literal["csv", "rows", "geojson", "activity"]

BLANK = "\ufeff \t\r\n"


def _nested(value: Any, inner: str | None) -> Iterable[tuple[int, str, str]]:
    for number, item in enumerate(value if isinstance(value, list) else [], start=1):
        fields = item.get(inner) if inner and isinstance(item, dict) else item
        for name, cell in fields.items() if isinstance(fields, dict) else ():
            if isinstance(cell, dict | list):
                yield number, str(name), "an object" if isinstance(cell, dict) else "a list"


def _flat_rows(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        for number, name, what in _nested(value, None):
            raise ValueError(_flat_sentence(f"row {number}", name, what)) from None
        raise


def _flat_features(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError:
        for number, name, what in _nested(value, "properties"):
            raise ValueError(_flat_sentence(f"feature {number}", name, what)) from None
        raise


def _flat_sentence(where: str, name: str, what: str) -> str:
    return f"{where}: field {name[:80]!r} holds {what}; a field must be text, a number, true, false or null"


class Geometry(BaseModel):
    """Any GeoJSON geometry; only a Point with two numbers has a place in the table."""

    model_config = ConfigDict(strict=True)

    type: str
    coordinates: Any = None


class Feature(BaseModel):
    """One thing on the map: its properties become columns, next to `longitude` and `latitude`."""

    model_config = ConfigDict(strict=True)

    type: Literal["Feature"]
    properties: Fields | None = None
    geometry: Geometry | None = None


class FeatureCollection(BaseModel):
    """GeoJSON (RFC 7946); members other than the features are ignored."""

    model_config = ConfigDict(strict=True)

    type: Literal["FeatureCollection"]
    features: Annotated[list[Feature], WrapValidator(_flat_features)] = Field(min_length=1)


class ReportParams(BaseModel):
    """A title and at most one table; without a table the report shows the tenant's own job activity."""

    model_config = ConfigDict(strict=True, extra="forbid")

    title: str = Field("Report", max_length=200, description="Heading of the page.")
    csv: str | None = Field(
        None, description="CSV text with a header line; separated by commas, semicolons, tabs or pipes."
    )
    rows: Annotated[list[Fields] | None, WrapValidator(_flat_rows)] = Field(
        None, min_length=1, description="A list of flat objects, one for each row."
    )
    geojson: FeatureCollection | None = Field(None, description="A GeoJSON FeatureCollection.")

    @field_validator("csv")
    @classmethod
    def _not_blank(cls, csv: str | None) -> str | None:
        if csv is not None and not csv.strip(BLANK):
            raise ValueError("the CSV text is empty; send a header line and at least one row")
        return csv

    @model_validator(mode="after")
    def _one_table(self) -> "ReportParams":
        given = [name for name in ("csv", "rows", "geojson") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"send only one of csv, rows and geojson, not {' and '.join(given)}")
        return self


class ColumnSummary(BaseModel):
    """One column in numbers. Dates are ISO 8601 (UTC); a figure that does not exist is null."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, serialize_by_alias=True)

    name: str
    type: Kind
    missing: int
    distinct: int
    min: int | float | str | None = None
    max: int | float | str | None = None
    mean: float | None = None
    median: float | None = None


class Report(BaseModel):
    """What a report job answers; the page itself is the artifact `report.html`."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, serialize_by_alias=True)

    title: str
    source: Source
    row_count: int
    column_count: int
    chart_count: int
    columns: list[ColumnSummary]
