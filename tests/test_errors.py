from __future__ import annotations

from incdet.errors import Finding, InputError, suggest


def test_a_finding_says_file_object_fault_and_fix() -> None:
    assert str(Finding("a.json", "annotation 7", "has no box", "remove it")) == (
        "a.json: annotation 7: has no box -> remove it"
    )
    assert Finding("a", "b", "c", "d").severity == "error"


def test_an_input_error_holds_one_finding_or_many() -> None:
    one = Finding("a.json", "file", "is cut off", "copy it again")
    assert InputError(one).findings == [one] and str(InputError(one)) == str(one)
    many = InputError(Finding("a.json", f"annotation {i}", "is empty", "remove it") for i in range(25))
    assert len(many.findings) == 25
    lines = str(many).splitlines()
    assert len(lines) == 21 and lines[-1] == "... and 5 more" and "annotation 19" in lines[-2]
    assert many.summary(most=30).count("\n") == 24


def test_suggestions_name_the_near_words_or_all() -> None:
    assert suggest("leraning_rate", ["learning_rate", "momentum"]) == "did you mean 'learning_rate'?"
    assert suggest("zzz", ["b", "a", "a"]) == "known: a, b"
    assert suggest("zzz", [f"w{i:02}" for i in range(30)]).endswith("w19, ...")
    assert suggest("zzz", []) == "nothing is known here"
