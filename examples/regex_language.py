"""A network that learns a regular language: its answers, its states, and its weights beside the automaton."""

import sys

from mechinterp.studies.regex_language import Anatomy, RegexLanguageOptions, train


def main(pattern: str = "a*b*", out: str = "runs/example_regex_language", **options) -> None:
    """Train, or open what was trained before, and print what was found."""
    found = Anatomy.of(train(RegexLanguageOptions(pattern=pattern, **options), out))
    print("\n".join([*found.trained.task.notes, str(found.gate)]))
    print({name: round(value, 4) for name, value in found.measures.items()})
    for name in ("logistic_probe", "state_swap", "state_transitions"):
        print(found.results.get(name, f"no {name}: too few strings to hold any out"))
    rotated = found.results["raw_transitions"].extra["rotated"].sel(measure="cosine", head="all")
    print(f"raw cosine in 20 rotated streams: {float(rotated.min()):.2f} to {float(rotated.max()):.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
