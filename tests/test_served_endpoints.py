"""Names of served models: read, written, refused."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factshock.runtime.errors import UserError
from factshock.served import endpoints
from factshock.served.endpoints import Endpoint


@pytest.mark.parametrize(
  "source, expected",
  [
    ("endpoint:http://h:8000/v1?model=m", Endpoint("http://h:8000/v1", "m")),
    ("endpoint:http://h:8000?model=m", Endpoint("http://h:8000/v1", "m")),
    ("endpoint:http://h:8000/?model=m", Endpoint("http://h:8000/v1", "m")),
    ("endpoint:https://h/openai/v1/?model=m", Endpoint("https://h/openai/v1", "m")),
    ("endpoint:http://[::1]:1/v1?model=m", Endpoint("http://[::1]:1/v1", "m")),
    ("endpoint:http://h?model=org/name", Endpoint("http://h/v1", "org/name")),
    ("endpoint:http://h?model=llama3:8b&api=chat", Endpoint("http://h/v1", "llama3:8b", True)),
    ("endpoint:http://h?api=completions&model=a%26b", Endpoint("http://h/v1", "a&b")),
    ("endpoint:http://h?model=a+b&concurrency=64", Endpoint("http://h/v1", "a+b", False, 64)),
  ],
)
def test_an_address_is_read_and_written_back(source, expected):
  assert endpoints.is_endpoint(source)
  assert endpoints.parse(source) == expected
  assert endpoints.parse(expected.source) == expected


@given(
  st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
  st.booleans(),
  st.integers(1, 1024),
)
def test_any_name_of_a_model_comes_back(model, chat, concurrency):
  endpoint = Endpoint("http://host:8000/v1", model, chat, concurrency)
  assert endpoints.parse(endpoint.source) == endpoint


@pytest.mark.parametrize(
  "source, words",
  [
    ("endpoint:", "expected endpoint:http://localhost:8000/v1?model=NAME"),
    ("endpoint:localhost:8000/v1?model=m", "got the address 'localhost:8000/v1'"),
    ("endpoint:ftp://h/v1?model=m", "got the address"),
    ("endpoint:http://h:x/v1?model=m", "got the address"),
    ("endpoint:http://h:0/v1?model=m", "got the address"),
    ("endpoint:http://[::1/v1?model=m", "got the address"),
    ("endpoint:http:// h/v1?model=m", "got the address"),
    ("endpoint:http://h/v1#x?model=m", "with #"),
    ("endpoint:http://h/v1", "expected the name of a model"),
    ("endpoint:http://h/v1?model=", "expected the name of a model"),
    ("endpoint:http://h/v1/chat/completions?model=m", "expected the base address"),
    ("endpoint:http://h/v1?model=m&model=n", "model= once"),
    ("endpoint:http://h/v1?model=m&api=embeddings", "api=completions or api=chat"),
    ("endpoint:http://h/v1?model=m&temperature=1", "'temperature'"),
    ("endpoint:http://h/v1?model=m&concurrency=0", "1 to 1024, got '0'"),
    ("endpoint:http://h/v1?model=m&concurrency=many", "got 'many'"),
    ("endpoint:http://h/v1?model=m&concurrency=99999999999999", "1 to 1024"),
  ],
)
def test_what_is_no_address_is_named(source, words):
  with pytest.raises(UserError) as error:
    endpoints.parse(source)
  assert words in str(error.value)


@pytest.mark.parametrize(
  "source",
  [
    "endpoint:http://me:SECRET@h/v1?model=m",
    "endpoint:http://me:SECRET@h:bad/v1?model=m",
    "endpoint:http://h/v1?model=m&key=SECRET",
    "endpoint:http://h/v1?api_key=SECRET&model=m",
    "endpoint:http://h/v1?model=m&access_token=SECRET",
  ],
)
def test_an_address_holds_no_key_and_what_it_holds_is_not_shown(source):
  with pytest.raises(UserError, match="FACTSHOCK_API_KEY") as error:
    endpoints.parse(source)
  assert "SECRET" not in str(error.value)


def test_the_key_is_the_environments(monkeypatch):
  for name in endpoints.KEYS:
    monkeypatch.delenv(name, raising=False)
  assert endpoints.api_key() is None
  monkeypatch.setenv("OPENAI_API_KEY", " theirs\n")
  assert endpoints.api_key() == "theirs"
  monkeypatch.setenv("FACTSHOCK_API_KEY", "ours")
  assert endpoints.api_key() == "ours"
  monkeypatch.setenv("FACTSHOCK_API_KEY", "")
  assert endpoints.api_key() is None
  monkeypatch.setenv("FACTSHOCK_API_KEY", "SECR\u00e9T")
  with pytest.raises(UserError, match="FACTSHOCK_API_KEY: expected a key") as error:
    endpoints.api_key()
  assert "SECR" not in str(error.value)


WITHOUT_HTTPX = """
import sys
sys.modules["httpx"] = None
from factshock.answering import asking
from factshock.runtime.errors import UserError
from factshock.served import models
try:
  models.open_endpoint("endpoint:http://localhost:1/v1?model=a")
except UserError as error:
  print(error)
"""


def test_without_httpx_all_else_works_and_the_error_says_what_to_install():
  done = subprocess.run(
    [sys.executable, "-c", WITHOUT_HTTPX], capture_output=True, text=True, check=True
  )
  assert done.stdout.endswith("needs the package httpx: pip install 'factshock[served]'\n")
