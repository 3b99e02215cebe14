"""The quality gate: which verdicts may leave for the Hub."""

import pytest

from appliance.gate import PushRules, push_after
from appliance.job import Push, Verdict

ORG = "acme"


@pytest.mark.parametrize(
    ("when", "through"),
    [
        ("improved", {Verdict.IMPROVED}),
        ("not_worse", {Verdict.IMPROVED, Verdict.UNPROVEN}),
        ("not_broken", {Verdict.IMPROVED, Verdict.UNPROVEN, Verdict.NO_BETTER}),
    ],
)
def test_each_setting_lets_its_verdicts_through(when, through):
    found = {
        verdict for verdict in Verdict if push_after(verdict, PushRules(ORG, when=when), wanted=None) is Push.PENDING
    }
    assert found == through


def test_what_does_not_pass_is_withheld_and_not_lost():
    assert push_after(Verdict.NO_BETTER, PushRules(ORG), wanted=None) is Push.WITHHELD


def test_without_an_organisation_nothing_is_pushed():
    assert push_after(Verdict.IMPROVED, PushRules(), wanted=True) is Push.OFF


def test_the_recipe_has_the_last_word_on_whether_but_not_past_the_gate():
    assert push_after(Verdict.IMPROVED, PushRules(ORG), wanted=False) is Push.OFF
    assert push_after(Verdict.IMPROVED, PushRules(ORG, push=False), wanted=True) is Push.PENDING
    assert push_after(Verdict.NO_BETTER, PushRules(ORG, push=False), wanted=True) is Push.WITHHELD
