"""Secrets that must never be written, words that must stay, and patterns that are linear by their shape."""

from __future__ import annotations

import re
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distwatch import redaction
from distwatch.redaction import LONGEST, allowed_environment, redact_command, redact_text

SECRET = "Zq7-hunter2hunter2hunter2"
PLANTED = {
    "dict repr": "{{'token': '{}', 'rank': 3}}",
    "json": '{{"password": "{}"}}',
    "json in json": '{{"body": "{{\\"password\\": \\"{}\\"}}"}}',
    "nested dict": "{{'auth': {{'password': '{}'}}}}",
    "yaml below a name": "auth:\n  password: {}",
    "a name in front": "invalid token: password: {}",
    "prose in front": "token password={}",
    "bytes repr": "password=b'{}'",
    "bearer header": "Authorization: Bearer {}",
    "basic header": "authorization: Basic {}",
    "header in a dict": "{{'Authorization': 'Bearer {}'}}",
    "bearer alone": "curl: bearer {} was refused",
    "cookie": "Cookie: theme=dark; session={}",
    "passphrase": "passphrase={}",
    "pwd": "Server=db;Uid=sa;Pwd={};",
    "account key": "AccountName=a;AccountKey={};EndpointSuffix=core",
    "shared access key": "SharedAccessKey={}",
    "api key": "x-api-key: {}",
    "environment": "DB_PASS={} python train.py",
    "quoted words": 'password="two words {}"',
    "quoted quote": "password='it\\'s {}'",
    "option": "train.py --db-pass {} --epochs 3",
    "key option": "train.py --key {}",
    "option in a list": "Command '['train.py', '--token', '{}']' returned 1",
    "option joined": "--db-pass={}",
    "at in a password": "postgres://user:p@{}@db.example/jobs",
    "slash in a password": "postgres://user:p/{}@db.example/jobs",
    "query": "GET https://bucket.example/x?X-Sig={}",
    "fragment": "https://a.example/#access_token={}",
    "key block": "-----BEGIN RSA PRIVATE KEY-----\nMII\n{}\n-----END RSA PRIVATE KEY-----",
    "key block cut off": "-----BEGIN PRIVATE KEY-----\n{}",
}
SHAPED = [
    "hf_abcdefghijklmnopqrst",
    "sk-abcdefghijklmnop0123",
    "sk_live_abcdefghij0123",
    "rk_test_abcdefghij0123",
    "npm_abcdefghijklmnopqrst0123456789",
    "ghp_abcdefghijklmnopqrst0123456789",
    "github_pat_abcdefghijklmnopqrst0123",
    "glpat-abcdefghijklmnop",
    "AKIAIOSFODNN7EXAMPLE",
    "xoxb-123456789012-abcdef",
    "hooks.slack.com/services/T0000/B0000/abcdefgh",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "0a" * 20,
]
STAYS = [
    "auth failed for rank 3",
    "token of rank 3 at 12:03",
    "tokenizer=Llama, tokenization: fast",
    "author: somebody",
    "KeyError: key: default_pg/0//cpu//0/3",
    "Basic arithmetic fails in forward pass: 0.3 s",
    "https://hub.example:8080/org/model/resolve/main",
    "tcp://10.0.0.1:29500 is refused",
    "git+https://hub.example/org/name@v1.2",
    "train.py --epochs 3 --lr 0.1",
    "sk-learn is not sklearn",
    "0123456789012345678901234567890123456789",
    "commit 0a1b2c3d",
]


@pytest.mark.parametrize("shape", PLANTED)
def test_a_secret_is_hidden_wherever_it_stands(shape: str) -> None:
    assert SECRET not in redact_text(PLANTED[shape].format(SECRET))


@pytest.mark.parametrize("secret", SHAPED)
def test_a_secret_is_known_by_its_own_shape(secret: str) -> None:
    assert secret not in redact_text(f"refused ({secret}).")


@pytest.mark.parametrize("text", STAYS)
def test_words_that_are_no_secret_stay(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize("option", ["--db-pass", "--key", "--api-key", "-token", "--hf_token"])
def test_the_value_after_a_secret_option_is_hidden(option: str) -> None:
    assert redact_command(["train.py", option, SECRET, "--lr", "1"]) == (
        "train.py", option, "[redacted]", "--lr", "1",
    )  # fmt: skip
    assert SECRET not in " ".join(redact_command([f"{option}={SECRET}"]))


def test_a_header_of_a_command_line_is_hidden() -> None:
    told = redact_command(
        ["curl", "--header", f"Authorization: Bearer {SECRET}", "https://a.example"]
    )
    assert told == ("curl", "--header", "Authorization: [redacted]", "https://a.example")


def test_allowed_variables_are_redacted_too() -> None:
    told = allowed_environment({"NCCL_DEBUG": f"token={SECRET}", "HOME": "/root", "RANK": "1"})
    assert told == {"NCCL_DEBUG": "token=[redacted]", "RANK": "1"}


@given(
    before=st.text(max_size=300),
    after=st.text(max_size=300),
    shape=st.sampled_from([*PLANTED.values(), *("{}" for _ in SHAPED)]),
    number=st.integers(0, len(SHAPED) - 1),
    secret=st.text(string.ascii_letters + string.digits, min_size=16, max_size=60),
)
def test_no_surrounding_brings_a_secret_out(
    before: str, after: str, shape: str, number: int, secret: str
) -> None:
    secret = SHAPED[number] if shape == "{}" else f"Zq7{secret}"
    told = redact_text(f"{before}\n{shape.format(secret)}\n{after}")
    assert secret not in told


@given(st.text(st.characters(), max_size=400), st.integers(1, 200))
def test_any_text_is_taken_and_what_comes_out_is_bounded(text: str, times: int) -> None:
    told = redact_text(text * times)
    assert len(told) <= 4 * LONGEST
    assert len(redact_text("x" * 1001 + text * times, 1000)) <= 1000


@pytest.mark.parametrize("secret", [SECRET, "hf_abcdefghijklmnopqrst"])
@pytest.mark.parametrize("shape", ["password={}", "Authorization: Bearer {}"])
def test_a_cut_leaves_no_half_of_a_secret(shape: str, secret: str) -> None:
    planted = f" {shape.format(secret)} "
    for place in range(1900, 2100):
        text = "x " * (place // 2) + planted
        assert secret[:6] not in redact_text(text + "y " * 5000, 4000)
        text = planted + "y " * (place // 2)
        assert secret[-6:] not in redact_text("x " * 5000 + text, 4000)


def test_a_cut_inside_a_key_takes_the_rest_of_it() -> None:
    key = (
        "-----BEGIN PRIVATE KEY-----\n" + "MIIB secretsecret\n" * 300 + "-----END PRIVATE KEY-----"
    )
    told = redact_text("x " * 3000 + key + " the end", 4000)
    assert "secretsecret" not in told
    assert told.endswith("the end")


def test_a_text_is_cut_before_any_pattern_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    hide = redaction._hide_assigned
    monkeypatch.setattr(
        redaction, "_hide_assigned", lambda text: seen.append(len(text)) or hide(text)
    )
    redact_text("0-1-2-" * 1_000_000)
    assert max(seen) <= LONGEST


def patterns() -> dict[str, re.Pattern[str]]:
    return {name: one for name, one in vars(redaction).items() if isinstance(one, re.Pattern)}


def test_no_pattern_can_be_super_linear() -> None:
    """None begins with a repetition, and none has an unbounded one inside another that meets it."""
    assert len(patterns()) > 8
    for name, pattern in patterns().items():
        if name not in ("_ALLOWED", "_FLAG", "_BARE"):  # matched against one bounded word
            check_pattern(name, pattern)


def check_pattern(name: str, pattern: re.Pattern[str]) -> None:
    try:
        from re import _parser as parser  # type: ignore[attr-defined]
    except ImportError:  # Python 3.10
        import sre_parse as parser

    def check(items: Any, looping: bool) -> None:
        for code, argument in items:
            kind = str(code)
            if kind in ("MAX_REPEAT", "MIN_REPEAT"):
                _, most, body = argument
                endless = most == parser.MAXREPEAT
                # `(?:\\.[^"\\]*)*`: each round begins with a letter that the inner one cannot take.
                steady = str(body[0][0]) == "LITERAL" and chr(body[0][1]) == "\\"
                assert not (endless and looping), f"{name}: a repetition in a repetition"
                check(body, endless and not steady)
            elif kind == "BRANCH":
                for branch in argument[1]:
                    check(branch, looping)
            elif kind == "SUBPATTERN":
                check(argument[3], looping)
            elif kind in ("ASSERT", "ASSERT_NOT"):
                check(argument[1], looping)

    parsed = parser.parse(pattern.pattern, pattern.flags)
    check(parsed, False)
    first = str(parsed[0][0])
    assert first not in ("MAX_REPEAT", "MIN_REPEAT") or parsed[0][1][1] != parser.MAXREPEAT, name
