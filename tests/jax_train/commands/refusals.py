"""What the tests of several commands check."""


def check_refusal(capsys, code, *words):
    """A command ended with 2 and one paragraph on stderr that holds the words."""
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("error:")
    assert "\n\n" not in err
    for word in words:
        assert word in " ".join(err.split())
