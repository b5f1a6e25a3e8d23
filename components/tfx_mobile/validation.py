"""What is wrong with the data a pipeline author wrote, in words."""

from __future__ import annotations

from pydantic import ValidationError


def problems_in(error: ValidationError, *, with_values: bool = True) -> str:
    """Every problem: the field, what was given, and why it is not valid.

    Args:
        error: What pydantic found.
        with_values: Whether to repeat what was given; not where it could be a secret.
    """
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'value'}{'=' + repr(problem['input']) if with_values else ''}: "
        f"{problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False)
    )
