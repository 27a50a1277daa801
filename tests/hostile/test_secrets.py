"""Secrets in URLs are hidden wherever a camera, a server or a mistake puts them."""

from __future__ import annotations

import re
import subprocess
import sys
from urllib.parse import quote

import pytest

from tests.support.media import ROOT
from vision_infer.config.stream_url import name_of
from vision_infer.stream.redact import redact

SECRET = "S3cReT"
NAMES = re.findall(
    r"\S+",
    """
authkey authinfo usertoken apitoken stoken ptoken webtoken playkey passkey viewkey sharekey privatekey secretkey seckey session_id
sessid PHPSESSID JSESSIONID authorization bearer oauth tkn ticket pin otp digest hmac md5 wmsAuthSign wowzatokenhash hdnts hdnea
Policy Key-Pair-Id pass_word usrpwd pswrd accesscode authcode password[] password[0] %70assword %2570assword ?password%20 id q x
""",
)
MISTYPED = (
    f"u:{SECRET}@h",
    f"rtsp//u:{SECRET}@h/",
    f"rtsp//u:{SECRET}@h",
    f"rtsp:/u:{SECRET}@h",
    f"rtsp:u:{SECRET}@h/x",
    f" rtsp://u:{SECRET}@h",
    f"rtspp://u:{SECRET}@h/x",
    f"//u:{SECRET}@h/x",
    f"rtsp;//u:{SECRET}@h",
    f"rtsp://u:12/{SECRET}@10.0.0.5/x",
    f"u:12/{SECRET}@h",
)


@pytest.mark.parametrize("name", NAMES)
def test_the_value_of_an_unknown_parameter_is_hidden(name: str) -> None:
    for value in (SECRET, quote(SECRET, safe=""), f"a=b={SECRET}", f"{SECRET}=", f"x;{SECRET}", f"x?{SECRET}", f"x#{SECRET}"):
        for url in (
            f"rtsp://h/x?{name}={value}",
            f"rtsp://h/x?channel=1&{name}={value}&b=1",
            f"http://h/x;a=1?subtype=1;{name}={value}",
            f"http://h/x#{name}={value}",
            f"http://h/x?url={quote(f'rtsp://h/?{name}={value}', safe='')}",
            f"http://h/x?url={quote(quote(f'rtsp://u:{value}@h', safe=''), safe='')}",
            f"cannot open srt://h:9000?mode=caller&{name}={value}: refused",
        ):
            assert SECRET not in redact(url), url
            assert SECRET not in name_of(url), url


@pytest.mark.parametrize("url", MISTYPED)
def test_no_command_shows_the_password_of_a_mistyped_url(url: str) -> None:
    assert SECRET not in redact(f"{url}: no such file")
    assert SECRET not in name_of(url)


@pytest.mark.slow
@pytest.mark.parametrize("url", MISTYPED)
@pytest.mark.parametrize("command", [("serve", "--check"), ("run", "--model", "clock")], ids=lambda command: command[0])
def test_no_command_prints_the_password_of_a_mistyped_url(url: str, command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vision_infer", command[0], url, *command[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert SECRET not in done.stdout + done.stderr
