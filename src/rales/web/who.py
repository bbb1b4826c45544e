"""Who asks: the reader and the round that a request names in its address."""

from typing import Annotated

from fastapi import Depends, Query

from rales.web.readers import LONGEST_NAME, MOST_ROUNDS, name_reader
from rales.web.store import Who


def read_who(
    reader: Annotated[str, Query(max_length=LONGEST_NAME, description="Name of a reader; none for what stands.")] = "",
    round: Annotated[int, Query(ge=1, le=MOST_ROUNDS, description="Round of that reader.")] = 1,
) -> Who:
    return name_reader(reader, round)


def read_viewer(
    reader: Annotated[str, Query(max_length=LONGEST_NAME, description="Name of a reader; none sees all.")] = "",
    round: Annotated[int, Query(ge=1, le=MOST_ROUNDS, description="Round that is looked at.")] = 1,
) -> Who:
    return Who(name_reader(reader, round).reader, round)


Asking = Annotated[Who, Depends(read_who)]
Viewing = Annotated[Who, Depends(read_viewer)]
