import pytest

from pixace_tf import console


@pytest.mark.parametrize(
    ("counts", "line"),
    [((2, 8), "Work:  25% 2/8\n"), ((3, 0), "Work:   0% 3\n")],
)
def test_a_log_gets_a_line_now_and_then(capsys, monkeypatch, counts, line):
    with console.ProgressBar("Work") as bar:
        bar.count(*counts)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(console, "LOG_INTERVAL_S", 0.0)
        bar.count(*counts)
    assert capsys.readouterr().err == line
