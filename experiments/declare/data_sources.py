"""The data source of every exhibit, as far as it can be had."""

from __future__ import annotations

import os

from experiments.declare import registry
from experiments.errors import UserError, unknown


class DataSources(dict[str, str]):
    """Data source by exhibit. One that cannot be had is an error only where it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[str, UserError] = {}

    def __missing__(self, exhibit: str) -> str:
        raise self.errors[exhibit]


def resolve_all(requested: str | None = None) -> DataSources:
    """The data source of every exhibit; a request is for those that know the source.

    Raises:
        UserError: if no exhibit knows the requested source, or the folder that `MUPKIT_DATA` names
            does not exist.
    """
    exhibits = registry.exhibits().values()
    known = {source for exhibit in exhibits for source in exhibit.data_sources}
    if requested is not None and requested not in known:
        raise unknown("data", requested, known)
    sources = DataSources()
    for exhibit in exhibits:
        wanted = requested if requested in exhibit.data_sources else None
        try:
            sources[exhibit.name] = exhibit.resolve_data(wanted)
        except UserError as error:
            sources.errors[exhibit.name] = error
    folder = os.environ.get("MUPKIT_DATA")
    if sources.errors and folder and not os.path.isdir(os.path.expanduser(folder)):
        raise next(iter(sources.errors.values()))
    return sources
