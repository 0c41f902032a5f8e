"""What is at the address, told in one sentence before anything is touched."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "load"))

from rig import Service, certificate

from aftershock.load.contact import NoService, first_contact


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    running = Service(modes=["told_back"])
    yield running
    running.stop()


def said(url: str, model: str = "plain", **more: object) -> str:
    with pytest.raises(NoService) as raised:
        first_contact(url, model, **more)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value) and url in str(raised.value)
    return str(raised.value)


def test_a_service_that_answers_is_one(service: Service) -> None:
    first_contact(service.url, "plain")
    first_contact(service.url + "/", "plain", {"x-tenant": "chaos"})


def test_what_is_none_is_told(service: Service) -> None:
    assert "an HTML page ('Welcome')" in said(service.url, "page")
    assert "no completion" in said(service.url, "error")
    told = said(service.url, "unknown", headers={"Authorization": "Bearer sk-secret-7"})
    assert "HTTP 401: it wants a token" in told and "api_token_env" in told
    assert "sk-secret-7" not in told and "Authorization: *** ***" in told


@contextmanager
def peer(says: bytes) -> Iterator[str]:
    """The address of somebody who says this to whatever comes, and goes."""

    def serve() -> None:
        while True:
            try:
                line = plug.accept()[0]
            except OSError:
                return
            with line, suppress(OSError):
                line.settimeout(5)
                line.recv(65536)
                line.sendall(says)
                line.shutdown(socket.SHUT_WR)
                while line.recv(65536):  # closed before all was read, it would be reset
                    pass

    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        plug.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{plug.getsockname()[1]}"
        finally:
            plug.shutdown(socket.SHUT_RDWR)
            thread.join(5)


@pytest.mark.parametrize(
    ("says", "sentence"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\nnothing", "no such path, or no model 'm': check url and"),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", "/v1/completions: HTTP 302"),
        (b"HTTP/1.1 503 Busy\r\n\r\nno backend", "/v1/completions: HTTP 503 (no backend)"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "what it answers is no completion ({})"),
        (b"HTTP/1.1 200 OK\r\n\r\n<!doctype html>", "an HTML page: is that the service's"),
        (b"", "is the service up, and the url right?"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is the service up, and the url right?"),
    ],
)
def test_each_wrong_answer_is_one_sentence_with_its_mend(says: bytes, sentence: str) -> None:
    with peer(says) as url:
        assert sentence in said(url, "m")


def test_no_tls_where_tls_was_asked_for() -> None:
    with peer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        assert "no TLS there" in said(url.replace("http:", "https:"))


def test_nobody_there_and_somebody_silent() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "refused: is the service up" in said(url)
        silent.listen()
        assert "no answer in 0.2 s" in said(url, timeout_s=0.2)
    assert "check the url" in said("http://nowhere.invalid")


def test_a_certificate_that_does_not_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = certificate(tmp_path)
    secure = Service(modes=["plain"], tls=files)
    try:
        url = secure.url.replace("http:", "https:")
        told = said(url)
        assert "self-signed" in told and "SSL_CERT_FILE" in told and "verify_tls=false" in told
        first_contact(url, "plain", verify_tls=False)
        monkeypatch.setenv("SSL_CERT_FILE", files[0])
        first_contact(url, "plain")
    finally:
        secure.stop()
