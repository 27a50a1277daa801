"""Requests are authenticated with Basic and Digest."""

from __future__ import annotations

import time
from hashlib import md5

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_infer.stream.rtsp.authentication import Authenticator, challenges

RFC2617 = (
    'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
    'opaque="5ccc069c403ebaf9f0171e9517f40e41"'
)
RFC7616 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)


def test_the_examples_of_the_standards_are_answered() -> None:
    old = Authenticator("Mufasa", "Circle Of Life")
    assert old.challenged([RFC2617])
    assert 'response="6629fae49393a05397450978507c4ef1"' in (old.header("GET", "/dir/index.html", "0a4f113b") or "")
    for algorithm, expected in (
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ):
        new = Authenticator("Mufasa", "Circle of Life")
        assert new.challenged([RFC7616.format(algorithm)])
        header = new.header("GET", "/dir/index.html", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ") or ""
        assert f'response="{expected}"' in header
        assert f"algorithm={algorithm}, qop=auth, nc=00000001" in header


def test_the_strongest_challenge_is_answered() -> None:
    values = [
        'Basic realm="a"',
        RFC7616.format("MD5"),
        f'{RFC7616.format("SHA-256")}, Digest realm="x", nonce="y", algorithm=NEW',
    ]
    assert [(found.scheme, found.algorithm) for found in challenges(values)] == [
        ("digest", "SHA-256"),
        ("digest", "MD5"),
        ("basic", ""),
    ]
    assert [found.realm for found in challenges(['Digest realm="a, b=\\"c\\"", nonce="d", Basic realm=e'])] == ['a, b="c"', "e"]


def test_a_challenge_without_qop_is_answered_as_in_rfc_2069() -> None:
    # Seen with Longse cameras: https://github.com/scottlamb/retina/blob/main/src/client/testdata/longse_unauthorized.txt
    camera = Authenticator("admin", "secret")
    assert camera.challenged(['Digest realm="Surveillance Server", nonce="98481030"'])
    header = camera.header("DESCRIBE", "rtsp://192.0.2.1/1", "00") or ""
    assert "cnonce" not in header
    assert "qop" not in header
    secret, target = md5(b"admin:Surveillance Server:secret"), md5(b"DESCRIBE:rtsp://192.0.2.1/1")
    response = md5(f"{secret.hexdigest()}:98481030:{target.hexdigest()}".encode()).hexdigest()
    assert f'uri="rtsp://192.0.2.1/1", response="{response}"' in header


def test_a_refused_password_is_not_sent_again() -> None:
    camera = Authenticator("admin", "wrong")
    assert camera.challenged(['Digest realm="a", nonce="1", qop="auth"'])
    camera.header("DESCRIBE", "rtsp://192.0.2.1/", "00")
    assert not camera.challenged(['Digest realm="a", nonce="2", qop="auth"'])
    assert not Authenticator().challenged(['Basic realm="a"'])
    assert not camera.challenged(["Negotiate", "Digest nonce", ""])


def test_a_new_nonce_is_answered_if_the_old_one_is_stale() -> None:
    camera = Authenticator("admin", "secret")
    assert camera.challenged(['Digest realm="a", nonce="1", qop=auth'])
    assert "nc=00000001" in (camera.header("DESCRIBE", "rtsp://192.0.2.1/", "00") or "")
    assert "nc=00000002" in (camera.header("SETUP", "rtsp://192.0.2.1/", "01") or "")
    assert camera.challenged(['Digest realm="a", nonce="2", qop=auth, stale=TRUE'])
    header = camera.header("SETUP", "rtsp://192.0.2.1/", "02") or ""
    assert 'nonce="2"' in header
    assert "nc=00000001" in header


def test_no_representation_shows_the_password() -> None:
    camera = Authenticator("admin", "secret")
    camera.challenged(['Basic realm="a"'])
    assert camera.header("PLAY", "rtsp://192.0.2.1/", "00") == "Basic YWRtaW46c2VjcmV0"
    assert "secret" not in repr(camera)


def test_quotes_in_names_do_not_end_a_parameter() -> None:
    camera = Authenticator('ad"min', "secret")
    camera.challenged(['Digest realm="a\\\\b", nonce="1"'])
    assert 'username="ad\\"min", realm="a\\\\b"' in (camera.header("PLAY", "rtsp://192.0.2.1/", "00") or "")


@given(
    st.lists(st.sampled_from(["Digest ", "Basic ", "realm=", "nonce=", '"', "\\", ",", "=", " ", "a", "qop=auth"]), max_size=30)
)
@settings(max_examples=100)
def test_any_challenge_is_parsed_or_ignored(words: list[str]) -> None:
    camera = Authenticator("admin", "secret")
    if camera.challenged(["".join(words)]):
        assert camera.header("PLAY", "rtsp://192.0.2.1/", "00")


@given(st.lists(st.text(max_size=60), max_size=10), st.text(max_size=10))
@settings(max_examples=100)
def test_any_header_is_parsed_or_ignored(values: list[str], password: str) -> None:
    camera = Authenticator("admin", password)
    if camera.challenged([f"Digest {value}" for value in values]):
        assert camera.header("PLAY", "rtsp://192.0.2.1/", "00")


@pytest.mark.parametrize("part", ["a", "a ", " ", "a=", 'a="', 'a=\\"', ",", "Digest ", "Digest a=b,", "a-", '"'])
def test_a_long_header_takes_bounded_time(part: str) -> None:
    began = time.process_time()
    challenges(["Digest " + part * (32_768 // len(part))] * 4)
    assert time.process_time() - began < 3, "expected: below 0.1 s"


def test_values_without_quotes_are_read() -> None:
    camera = Authenticator("admin", "secret")
    assert camera.challenged(["Digest realm=cam, nonce=abc==, algorithm=MD5, qop=auth, stale=false"])
    assert camera.challenge is not None
    assert (camera.challenge.realm, camera.challenge.nonce, camera.challenge.qop) == ("cam", "abc==", "auth")
