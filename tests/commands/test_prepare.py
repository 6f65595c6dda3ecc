"""`frostline prepare`: paths that need quoting."""


def test_a_path_with_a_space_and_a_comma(shell):
    out, _ = shell("prepare", "dataset=digits", "out=a folder, or two")
    assert out.startswith("a folder, or two: 1797 images")
    assert (shell.folder / "a folder, or two" / "index.csv").is_file()
