"""What the tests of all studies hold of withdrawn claims."""

from collections.abc import Mapping

from mechinterp.studies.withdrawn import WITHDRAWN


def standing(study: str, verdicts: Mapping[str, str]) -> dict[str, str]:
    """Return the verdicts of the other claims, once those on the list are there and withdrawn."""
    listed = set(WITHDRAWN[study])
    assert {id for id, verdict in verdicts.items() if verdict == "withdrawn"} == listed
    return {id: verdict for id, verdict in verdicts.items() if id not in listed}
