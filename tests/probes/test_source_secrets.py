"""Secrets in source go, and what is left is the same code."""

from __future__ import annotations

import ast

import pytest

from distwatch.probes.source_secrets import redact_source


@pytest.mark.parametrize(
    ("source", "secret"),
    [
        ('token = "abcdef"', "abcdef"),
        ("api_key: str = 'abcdef'", "abcdef"),
        ('login(token="abcdef", host="h")', "abcdef"),
        ('os.environ["WANDB_API_KEY"] = "abcdef"', "abcdef"),
        ('os.environ.setdefault("API_KEY", "abcdef")', "abcdef"),
        ('headers = {"Authorization": f"Bearer {x} abcdef"}', "abcdef"),
        ('if password == "abcdef": pass', "abcdef"),
        ('x = ["hf_0123456789abcdefghij"]  # hf_9876543210abcdefghij', "0123456789"),
        ("x = 1  # password=abcdef", "abcdef"),
        ('doc = """first\npassword=abcdef\nlast"""\ny = 1', "abcdef"),
    ],
)
def test_secrets_in_literals_and_comments_go(source: str, secret: str) -> None:
    redacted = redact_source(source)
    assert secret not in redacted
    assert redacted.count("\n") == source.count("\n")
    ast.parse(redacted)


@pytest.mark.parametrize(
    "source",
    [
        "tokens = torch.randint(0, vocabulary, shape, generator=generator)",
        "next_token = torch.argmax(logits)",
        "generate(max_tokens=512, eos_token_id=2)",
        "if token == eos_token: pass",
        'login(token=os.environ["HF_TOKEN"])',
        "token: int = 5",
        'raise ValueError("token 4096 is outside the vocabulary of 4096")',
        's = """a\nb"""; t = f"{s!r:>10}"',
    ],
)
def test_code_stays_as_it_is(source: str) -> None:
    assert redact_source(source) == source


def test_what_is_no_python_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens"):
        redact_source('x = """')
