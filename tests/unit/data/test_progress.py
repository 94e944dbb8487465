"""The bar of the cache build: on standard error, and only where something is built."""

from hnet_ntv2.data.progress import cache_progress


def test_a_bar_is_drawn_on_standard_error_once_something_is_built(capsys):
    with cache_progress("Caching hg38.fa") as progress:
        assert progress is not None
        progress(1, 2)
        progress(2, 2)
    captured = capsys.readouterr()
    assert "Caching hg38.fa" in captured.err
    assert captured.out == ""


def test_nothing_is_drawn_for_a_finished_cache_or_when_unwanted(capsys):
    with cache_progress("Caching hg38.fa"):
        pass
    with cache_progress("Caching hg38.fa", visible=False) as progress:
        assert progress is None
    assert capsys.readouterr() == ("", "")
