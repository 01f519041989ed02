"""What Ray is given: the user's own runtime_env, with distwatch on, and a hook that ends no worker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distwatch import ray
from distwatch.cli.ray_job import submits_job, with_settings
from distwatch.errors import UsageError

called: list[str] = []


def users_hook() -> None:
    called.append("users")


def users_hook_that_fails() -> None:
    raise ValueError("the user's own")


def users_runtime_env_hook(given: dict | None) -> dict:
    return {**(given or {}), "pip": ["users"]}


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    called.clear()
    monkeypatch.delenv("DISTWATCH", raising=False)
    monkeypatch.delenv("DISTWATCH_RUN_ID", raising=False)
    monkeypatch.setattr(ray, "set_up_worker", lambda: called.append("ours"))


def test_settings_go_along_and_the_users_variables_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTWATCH_DEADLINES", "init=5")
    monkeypatch.setenv("DISTWATCH_TOKEN", "x" * 32)
    given = {"env_vars": {"DISTWATCH_ON_HANG": "raise", "DISTWATCH_DEADLINES": "init=9"}, "pip": []}
    extended = ray.runtime_env(given)
    assert extended["pip"] == []
    assert extended["env_vars"]["DISTWATCH"] == "1"
    assert extended["env_vars"]["DISTWATCH_DEADLINES"] == "init=9"
    assert extended["env_vars"]["DISTWATCH_ON_HANG"] == "raise"
    assert "DISTWATCH_TOKEN" not in extended["env_vars"], "Ray's dashboard shows them to everybody"
    assert given["env_vars"] == {"DISTWATCH_ON_HANG": "raise", "DISTWATCH_DEADLINES": "init=9"}


@pytest.mark.parametrize("users", [users_hook, f"{__name__}.users_hook"])
def test_the_users_setup_hook_is_called_once_after_ours(users: object) -> None:
    extended = ray.runtime_env(ray.runtime_env({"worker_process_setup_hook": users}))
    extended["worker_process_setup_hook"]()
    assert called == ["ours", "users"]


def test_what_fails_in_our_hook_goes_no_further_and_the_users_is_rays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OSError("no tmpfs")

    monkeypatch.setattr(ray, "set_up_worker", fail)
    ray.runtime_env({"worker_process_setup_hook": users_hook})["worker_process_setup_hook"]()
    assert called == ["users"]
    assert "no tmpfs" in capsys.readouterr().out
    failing = ray.runtime_env({"worker_process_setup_hook": users_hook_that_fails})
    with pytest.raises(ValueError, match="the user's own"):
        failing["worker_process_setup_hook"]()


def test_switched_off_it_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTWATCH", "0")
    assert ray.runtime_env({"pip": []}) == {"pip": []}


def test_a_hook_that_stood_in_the_variable_is_called_first(monkeypatch: pytest.MonkeyPatch) -> None:
    before = f"{__name__}.users_runtime_env_hook"
    added = ray.job_environment({"RAY_RUNTIME_ENV_HOOK": before})
    assert added["RAY_RUNTIME_ENV_HOOK"] == ray.HOOK
    for name, value in added.items():
        monkeypatch.setenv(name, value)
    extended = ray.extend_runtime_env(None)
    assert extended is not None
    assert extended["pip"] == ["users"]
    assert ray.USERS_HOOK_VARIABLE not in extended["env_vars"]


def test_ray_job_submit_takes_the_settings_to_the_cluster(tmp_path: Path) -> None:
    file = tmp_path / "env.yaml"
    file.write_text("working_dir: .\nenv_vars: {LR: '1'}\n")
    argv = [
        "/bin/ray",
        "job",
        "submit",
        "--no-wait",
        "--runtime-env",
        str(file),
        "--",
        "python",
        "d",
    ]
    assert submits_job(argv)
    *front, option, text, dashes, python, script = with_settings(
        argv, {"DISTWATCH_RUN_ID": "r", "DISTWATCH_TOKEN": "secret"}
    )
    assert front == ["/bin/ray", "job", "submit", "--no-wait"]
    assert (option, dashes, python, script) == ("--runtime-env-json", "--", "python", "d")
    told = json.loads(text)
    assert told["working_dir"] == "."
    assert told["env_vars"] == {
        "LR": "1",
        "DISTWATCH": "1",
        "DISTWATCH_RUN_ID": "r",
        "RAY_RUNTIME_ENV_HOOK": ray.HOOK,
    }
    again = with_settings([*front, f"{option}={text}", "--", "python", "d"], {})
    assert json.loads(again[-4])["env_vars"]["LR"] == "1"


@pytest.mark.parametrize("runtime_env", ["{", "[]"])
def test_a_runtime_env_that_makes_no_sense_is_a_usage_error(runtime_env: str) -> None:
    argv = ["ray", "job", "submit", "--runtime-env-json", runtime_env, "--", "python", "d"]
    with pytest.raises(UsageError):
        with_settings(argv, {})
