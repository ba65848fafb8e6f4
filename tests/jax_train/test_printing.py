"""What commands print."""

from jax_train.printing import as_paragraph


def test_paragraphs_keep_indented_lines_and_whole_words(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    text = as_paragraph("one two three four five\n  a line that is far longer than that")
    assert text == "one two three four\nfive\n  a line that is far longer than that"
