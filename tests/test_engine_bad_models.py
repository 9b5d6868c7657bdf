"""Files that are no model, and models that cannot be run here: one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeagent.errors import ModelLoadError, TemplateError
from tests.engine_kit import engine
from tests.tiny_gguf import (
    NANO_TEMPLATE,
    USER_DEFINED,
    write_garbage,
    write_tiny,
    write_truncated,
)


def refused(path: Path, **settings: object) -> str:
    """Return the one line with which the file is refused."""
    with engine(path, **settings) as made:
        with pytest.raises(ModelLoadError) as caught:
            made.start()
        assert not made.is_alive
        assert made.facts is None
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def test_a_missing_file(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.gguf")


def test_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder.gguf"
    folder.mkdir()
    assert "directory" in refused(folder)


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.gguf"
    path.touch()
    assert "empty" in refused(path)


def test_noise(tmp_path: Path) -> None:
    assert "again" in refused(write_garbage(tmp_path / "noise.gguf"))


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "text.gguf"
    path.write_text("This is no model.\n" * 100)
    assert "not a GGUF file" in refused(path)


@pytest.mark.parametrize("keep", [0.01, 0.1, 0.3, 0.7, 0.999])
def test_a_copy_that_broke_off(tmp_path: Path, keep: float) -> None:
    assert "incomplete" in refused(write_truncated(tmp_path / "cut.gguf", keep))


def test_a_file_on_which_llama_cpp_aborts(tmp_path: Path) -> None:
    """Two tokens of one text trip an assertion inside llama.cpp 0.5.0."""
    path = write_tiny(tmp_path / "twice.gguf", user_defined=(*USER_DEFINED, "A"))
    message = refused(path)
    assert "signal 6" in message
    assert "another build" in message


def test_a_file_that_llama_cpp_refuses(tmp_path: Path) -> None:
    raw = write_tiny(tmp_path / "tiny.gguf").read_bytes()
    path = tmp_path / "arch.gguf"
    path.write_bytes(raw.replace(b"qwen3", b"qwex3"))
    assert "qwex3" in refused(path)


BAD_TEMPLATES = [
    (None, "no chat template"),
    ("", "no chat template"),
    ("{% for m in messages %}{{ m.content }}{% endfor %}", "does not take tools"),
    ("{% if tools %}{{ messages", "does not parse"),
    ("{# tools #}{% for m in messages %}{{ m.content }}{% endfor %}", "leaves the tools out"),
    ("{{ tools | tojson }}{% for m in messages %}{{ m.content }}{% endfor %}", "cannot write"),
    ("{{ tools | tojson }}{{ raise_exception('no system') }}", "no system"),
    ("{{ tools | tojson }}{{ messages[0].content + 1 }}", "failed"),
    ("{{ tools | tojson }}{{ ''.__class__.__mro__ }}", "failed"),
]


@pytest.mark.parametrize(("template", "reason"), BAD_TEMPLATES)
def test_a_template_that_cannot_carry_tools(
    tmp_path: Path, template: str | None, reason: str
) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", template=template)
    with engine(path) as made:
        with pytest.raises(TemplateError) as caught:
            made.start()
        assert not made.is_alive
    assert reason in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_template_with_generation_marks_is_read(tmp_path: Path) -> None:
    marked = "{% generation %}" + NANO_TEMPLATE + "{% endgeneration %}"
    with engine(write_tiny(tmp_path / "tiny.gguf", template=marked)) as made:
        assert made.start().name == "tiny"
