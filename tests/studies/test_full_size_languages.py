"""The study at full size, over ten languages and three seeds; RESULTS.md is written from these runs."""

from pathlib import Path

import pytest

from mechinterp.studies.regex_language import PATTERNS, RegexLanguageStudy, study

PUBLISHED = ("a+", "a*b*", "(a|b)+", "ab")


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_language_is_studied(pattern):
    config = RegexLanguageStudy(pattern=pattern, alphabet=PATTERNS[pattern], fast=pattern != "a*b*")
    number = list(PATTERNS).index(pattern)
    report = study(config, Path("runs/studies") / f"regex-language_{number}")
    verdicts = {claim.id: claim.verdict for claim in report.claims}
    if pattern in PUBLISHED:
        assert verdicts["predicts_tokens"] == "holds", verdicts
        assert next(claim.value for claim in report.claims if claim.id == "classifies") >= 0.99

    assert all(claim.value is not None for claim in report.claims if claim.verdict in ("holds", "fails"))
