"""Settings: four sources in order, errors that name the guilty one, keys that go nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeagent import config, manifest, paths
from edgeagent.errors import ConfigError
from edgeagent.manifest import Build, Dialect, Manifest, Measured, Origin


@pytest.fixture
def file() -> Path:
    file = paths.config_file()
    file.parent.mkdir(parents=True)
    return file


def test_flags_beat_the_environment_which_beats_the_file_which_beats_the_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("[limits]\nmax_steps = 2\nrepeat = 5\ntool_timeout_s = 1.5\n")
    monkeypatch.setenv("EDGEAGENT_LIMITS__MAX_STEPS", "3")
    monkeypatch.setenv("EDGEAGENT_LIMITS__REPEAT", "6")
    settings = config.load({"limits.max_steps": 4, "offline": None, "model.name": None})
    assert settings.limits.max_steps == 4
    assert settings.limits.repeat == 6
    assert settings.limits.tool_timeout_s == 1.5
    assert settings.model.name == "nano"
    assert not settings.offline


def test_settings_cannot_be_changed() -> None:
    settings = config.load({})
    with pytest.raises(ValueError, match="frozen"):
        settings.limits.max_steps = 3  # type: ignore[misc]  # that it is frozen is the point


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [", r"config.toml are not TOML: .*correct that line"),
        ("[model]\nname = 'a'\n\nname = 'b'\n[ui]", r"not TOML: .*line 4"),
        ("[modl]\nname = 'x'", r"line 1: unknown key 'modl'; did you mean 'model'\?"),
        ("[ui]\n[model]\nnmae = 'x'", r"line 3: unknown key 'model.nmae'; did you mean 'name'\?"),
        ("[limits]\nzzz = 1", r"'limits.zzz'; known: max_steps, tool_timeout_s, repeat"),
        ("model = 'x'", r"line 1: 'model' is a section; write \[model\]"),
        (
            "[limits]\n# a comment\nmax_steps = 'abc'",
            r"line 3: limits.max_steps = 'abc': .*integer",
        ),
        ("limits.max_steps = 0", r"line 1: limits.max_steps = 0: .*greater than or equal to 1"),
        ("[defer]\nmode = 'maybe'", r"line 2: defer.mode = 'maybe': .*'auto', 'ask' or 'never'"),
        ("[remote]\nturn_s = nan", r"remote.turn_s = nan"),
        ("[remote]\nbase_url = 'host:8000'", r"should look like http://host:8000/v1"),
        ("[defer]\nthreshold = 1.5", r"defer.threshold = 1.5: .*less than or equal to 1"),
        ("[ui]\nkeymap = 3", r"line 2: ui.keymap = 3"),
        ("offline = 'perhaps'", r"line 1: offline = 'perhaps': .*boolean"),
    ],
)
def test_a_bad_file_is_named_with_line_key_value_and_what_is_allowed(
    file: Path, text: str, message: str
) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        config.load({})
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_an_error_of_ours(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not TOML"):
        config.load({})


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("EDGEAGENT_MODEL__N_CTX", "abc", r"EDGEAGENT_MODEL__N_CTX.*'abc'.*integer"),
        ("EDGEAGENT_MODLE__NAME", "x", r"EDGEAGENT_MODLE__NAME names no section; did you mean"),
        ("EDGEAGENT_MODEL__NN", "1", r"unknown key 'model.nn'; known: name"),
        ("EDGEAGENT_MODEL", "{", r"environment: .*model.*JSON"),
        ("EDGEAGENT_OFFLINE", "perhaps", r"offline = 'perhaps'"),
        ("DEFER_BASE_URL", "nope", r"remote.base_url = 'nope'"),
    ],
)
def test_a_bad_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=message):
        config.load({})


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAGENT_MODEL__N_CTX", "")
    monkeypatch.setenv("DEFER_BASE_URL", "")
    assert config.load({}) == config.load({})
    assert config.load({}).remote.base_url is None


def test_a_bad_flag_is_named() -> None:
    with pytest.raises(ConfigError, match=r"flag: limits.max_steps = 0"):
        config.load({"limits.max_steps": 0})


def test_the_larger_model_takes_distils_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEFER_BASE_URL", "http://127.0.0.1:8000/v1")
    monkeypatch.setenv("DEFER_API_KEY", "hunter2")
    monkeypatch.setenv("DEFER_MODEL", "glm")
    remote = config.load({}).remote
    assert (remote.base_url, remote.model) == ("http://127.0.0.1:8000/v1", "glm")
    assert remote.api_key is not None
    assert remote.api_key.get_secret_value() == "hunter2"
    monkeypatch.setenv("EDGEAGENT_REMOTE__MODEL", "qwen")
    assert config.load({}).remote.model == "qwen", "the exact name is the stronger one"


@pytest.mark.parametrize(
    ("base_url", "is_sent"),
    [
        ("https://api.openai.com/v1", True),
        ("http://api.openai.com/v1", False),  # in the clear
        ("https://api.openai.com.example.org/v1", False),
        ("https://example.org/api.openai.com/v1", False),
        ("https://api.openai.com@example.org/v1", False),
        ("http://127.0.0.1:8000/v1", False),
    ],
)
def test_openais_key_goes_to_openai_only(
    monkeypatch: pytest.MonkeyPatch, base_url: str, is_sent: bool
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "hunter2")
    monkeypatch.setenv("DEFER_BASE_URL", base_url)
    assert (config.load({}).remote.api_key is not None) == is_sent


def test_a_key_given_for_one_server_is_not_sent_to_another(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('[remote]\nbase_url = "https://a.example/v1"\napi_key = "hunter2"\n')
    assert config.load({}).remote.api_key is not None
    monkeypatch.setenv("DEFER_BASE_URL", "https://a.example/v2")
    assert config.load({}).remote.api_key is not None, "the same server"
    monkeypatch.setenv("DEFER_BASE_URL", "https://b.example/v1")
    assert config.load({}).remote.api_key is None
    monkeypatch.setenv("DEFER_API_KEY", "for b")
    assert config.load({}).remote.api_key is not None


@pytest.mark.parametrize("api_key", ["'hunter2'\nmodel = 5", "['hunter2']"])
def test_a_key_is_never_printed(file: Path, api_key: str) -> None:
    file.write_text(f"[remote]\napi_key = {api_key}\n")
    with pytest.raises(ConfigError) as caught:
        config.load({})
    assert "hunter2" not in str(caught.value)
    file.write_text("[remote]\napi_key = 'hunter2'\n")
    assert "hunter2" not in repr(config.load({}))


def test_every_value_knows_its_source(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("[limits]\nmax_steps = 2\n")
    monkeypatch.setenv("EDGEAGENT_LIMITS__REPEAT", "6")
    stack = config.layers({"offline": True})
    sources = [config.origin(key, stack) for key in ("limits.max_steps", "limits.repeat")]
    assert sources == [str(file), "environment"]
    assert config.origin("offline", stack) == "flag"
    assert config.origin("model.name", stack) == "default"


def test_folders_are_made_for_their_owner_only(home: Path) -> None:
    for folder in (paths.data_dir(), paths.cache_dir(), paths.state_dir()):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.is_relative_to(home)
    assert not paths.config_file().exists()


def test_a_relative_xdg_path_is_ignored(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "somewhere")
    assert paths.data_dir() == home / ".local/share/edgeagent"


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="XDG_"):
        paths.data_dir()


FULL = Manifest(
    name="small",
    title='A "small" model — tiếng Việt \\ \x7f',
    licence="Apache-2.0",
    origin=Origin(repo="someone/small", revision="0" * 40),
    attribution="line one\nline two",
    n_ctx=4096,
    dialect=Dialect(system="<p>\n{task_description}</p>", tool_results="user", calls="parallel"),
    builds=(
        Build(file="a.gguf", quant="Q8_0", size_bytes=10, sha256="a" * 64),
        Build(file="b.gguf", quant="Q4_K_M", size_bytes=5, sha256="b" * 64),
    ),
    default_build="Q8_0",
    defer_threshold=0.25,
    measured=(
        Measured(build="Q8_0", suite="tft", metric="tool", value=0.9, low=0.8, command="edgeagent"),
    ),
)


@pytest.mark.parametrize("written", [FULL, manifest.DEFAULT])
def test_a_manifest_survives_the_file(tmp_path: Path, written: Manifest) -> None:
    file = tmp_path / "small.toml"
    manifest.write(written, file)
    assert manifest.read(file) == written
    first = file.read_bytes()
    manifest.write(manifest.read(file), file)
    assert file.read_bytes() == first
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["small.toml"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("n_ctx = 4096", "n_ctx = 4096\nspeed = 3", r"speed: Extra inputs"),
        ("n_ctx = 4096", "n_ctx = 1", r"n_ctx: .*256"),
        ('default_build = "Q8_0"', 'default_build = "Q2_K"', r"none of the builds: Q8_0, Q4_K_M"),
        ('quant = "Q4_K_M"', 'quant = "Q8_0"', r"two builds share a quant"),
        ("{task_description}", "", r"dialect.system: .*exactly once"),
        ("a" * 64, "not a hash", r"builds.0.sha256"),
        ("[dialect]", "[dialect", r"not TOML"),
    ],
)
def test_a_manifest_that_says_nonsense_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    file = tmp_path / "small.toml"
    manifest.write(FULL, file)
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        manifest.read(file)


def test_a_build_is_found_by_its_quant_in_any_case() -> None:
    build = FULL.build("q4_k_m")
    assert build is not None
    assert build.file == "b.gguf"
    assert FULL.build("Q2_K") is None


@pytest.mark.parametrize("file", sorted(paths.bundled("").glob("*.toml")), ids=lambda f: f.stem)
def test_every_manifest_that_ships_can_be_read(file: Path) -> None:
    assert manifest.read(file).name == file.stem
