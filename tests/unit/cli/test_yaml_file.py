"""A user's YAML is read if it is a small mapping of settings; a bomb is refused before anything is made of it."""

import pytest

from hnet_ntv2.cli.bench import read_config
from hnet_ntv2.cli.experiment import load_settings
from hnet_ntv2.cli.init import read_settings
from hnet_ntv2.cli.yaml_file import read_yaml
from hnet_ntv2.errors import ConfigError

READERS = {
    "--config-path": lambda path: load_settings(config_path=path),
    "init --config": read_settings,
    "bench --config": read_config,
}


def bomb(levels: int) -> str:
    """Nine to the power of ``levels`` values in a few lines."""
    lines = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels + 1)]
    return "a0: &a0 1\n" + "\n".join(lines) + "\n"


REFUSED = {
    "bomb": (bomb(12), "holds more than 10,000 values once its aliases"),
    "mapping bomb": (
        "a0: &a0 {x: 1, y: 1}\n" + "".join(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}\n" for n in range(1, 40)),
        "holds more than 10,000 values once its aliases",
    ),
    "endless": ("a: &a [1, *a]\n", "holds more than 10,000 values once its aliases"),
    "long": ("a: [" + "1, " * 11_000 + "]\n", "holds more than 10,000 values"),
    "large": ("# " + "x" * 100_000, "has 100,002 bytes, more than any settings need"),
    "deep": ("a: " + "[" * 3_000, "is not a readable YAML file"),
    "broken": ("a: [1\n", "is not a readable YAML file"),
    "tag": ("a: !!python/object/apply:os.getcwd []\n", "is not a readable YAML file"),
    "date": ("a: 2020-13-45\n", "is not a readable YAML file"),
    "key": ("? [1, 2]\n: 3\n", "is not a readable YAML file"),
    "list": ("- 1\n", "must hold settings"),
    "number": ("1\n", "must hold settings"),
    "empty": ("", "must hold settings"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", REFUSED)
def test_refused(tmp_path, reader, kind):
    text, message = REFUSED[kind]
    path = tmp_path / "my settings.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"my settings\.yaml {message}") as caught:
        READERS[reader](path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_text_or_no_file(tmp_path, reader):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ConfigError, match=r"x\.yaml is not a readable YAML file"):
        READERS[reader](path)
    with pytest.raises(ConfigError, match="cannot be read: it is a folder"):
        READERS[reader](tmp_path)
    with pytest.raises(ConfigError, match="cannot be read: there is no such file"):
        READERS[reader](tmp_path / "none.yaml")


def test_a_few_aliases_are_written_out(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("guard_stage1: &guard [0.1, 0.6]\nguard_stage2: *guard\n")
    assert read_yaml("--config", path)[1] == {"guard_stage1": [0.1, 0.6], "guard_stage2": [0.1, 0.6]}
    path.write_text("model:\n  guard_stage1: &guard [0.1, 0.6]\n  guard_stage2: *guard\n")
    assert load_settings(config_path=path).model["guard_stage2"] == [0.1, 0.6]
