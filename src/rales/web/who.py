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


Asking = Annotated[Who, Depends(read_who)]
