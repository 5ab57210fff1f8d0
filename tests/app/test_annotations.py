from __future__ import annotations

import pytest

from incdet.app.annotations import FEW, picture_progress


@pytest.mark.parametrize(("total", "said"), [(FEW, ""), (FEW + 1, f"looking at pictures: {FEW + 1}/{FEW + 1}")])
def test_progress_is_shown_on_stderr_when_it_takes_a_while(
    capsys: pytest.CaptureFixture[str], total: int, said: str
) -> None:
    with picture_progress() as progress:
        progress(16, total)
        progress(total, total)
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(said) and bool(printed.err) == bool(said)
