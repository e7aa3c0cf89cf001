"""Which hosts and origins are answered, and where the page thinks that it is behind a proxy: tables over the rules."""

from __future__ import annotations

import pytest

from vlcompare.errors import RequestError
from vlcompare.ui.server.allowed_hosts import AllowedHosts, HostPort, PublicAddress, read_allowed, read_root_path
from vlcompare.ui.server.options import ServerOptions
from vlcompare.ui.server.refusal import Refused

LOCAL = AllowedHosts("127.0.0.1", environment={})
EVERYWHERE = AllowedHosts("0.0.0.0", environment={})
ALLOWED = ("vl.example.org", "*.lab.example.org", "odd.example.org:8443")
NAMED = AllowedHosts("127.0.0.1", read_allowed(ALLOWED), environment={})
SPACE = AllowedHosts("0.0.0.0", environment={"SPACE_HOST": "me-vl.hf.space,vl.me.org"})
SHARED = AllowedHosts("127.0.0.1", environment={}, share=lambda: "https://abc.gradio.live")
BELOW = AllowedHosts("127.0.0.1", root_path="/vl", environment={})
PUBLIC = AllowedHosts("127.0.0.1", root_path="https://vl.example.org/vl", environment={})


def look(
    access: AllowedHosts, host: str | list[str] = "localhost:7860", method: str = "GET", path: str = "/", **more: str
):
    """The verdict on a request; further headers as keywords."""
    named = [host] if isinstance(host, str) else host
    headers = [(b"host", value.encode("latin-1")) for value in named]
    headers += [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in more.items()]
    try:
        return access.check(method, path, headers, "http")
    except Refused as refused:
        return refused


@pytest.mark.parametrize(
    ("access", "host", "answered"),
    [
        (LOCAL, "localhost:7860", True),
        (LOCAL, "LOCALHOST:7860", True),
        (LOCAL, "127.0.0.1:7860", True),
        (LOCAL, "[::1]:7860", True),
        (LOCAL, "localhost.:7860", True),
        (LOCAL, "localhost:9000", True),  # ssh -L 9000:localhost:7860
        (LOCAL, "evil.example", False),
        (LOCAL, "evil.example:7860", False),
        (LOCAL, "localhost.evil.example:7860", False),
        (LOCAL, "127.0.0.1.evil.example", False),
        (LOCAL, "192.168.1.7:7860", False),  # bound to this machine alone
        (LOCAL, "127.1:7860", False),
        (LOCAL, "2130706433", False),
        (LOCAL, "me-vl.hf.space", False),
        (AllowedHosts("::1", environment={}), "[::1]:7860", True),
        (AllowedHosts("[::1]", environment={}), "evil.example", False),
        (AllowedHosts("localhost", environment={}), "evil.example", False),
        (EVERYWHERE, "192.168.1.7:7860", True),
        (EVERYWHERE, "[fe80::1]:7860", True),
        (EVERYWHERE, "evil.example:7860", False),
        (EVERYWHERE, "localhost", True),
        (NAMED, "vl.example.org", True),
        (NAMED, "VL.example.org:444", True),
        (NAMED, "other.example.org", False),
        (NAMED, "a.lab.example.org", True),
        (NAMED, "lab.example.org", False),
        (NAMED, "evillab.example.org", False),
        (NAMED, "odd.example.org:8443", True),
        (NAMED, "odd.example.org:8444", False),
        (SPACE, "me-vl.hf.space", True),
        (SPACE, "vl.me.org", True),
        (SPACE, "you-vl.hf.space", False),
        (SHARED, "abc.gradio.live", True),
        (SHARED, "evil.gradio.live", False),
        (PUBLIC, "vl.example.org", True),
        (AllowedHosts("0.0.0.0", ("*",), environment={}), "anything.example", True),
    ],
)
def test_hosts(access: AllowedHosts, host: str, answered: bool) -> None:
    found = look(access, host)
    assert isinstance(found, PublicAddress) is answered
    if not answered:
        assert found.status == 403 and "--allow-host" in found.sentence and found.sentence.endswith(".")


def test_the_machines_own_name_is_answered_where_others_reach_it() -> None:
    import socket

    assert isinstance(look(EVERYWHERE, f"{socket.gethostname()}:7860"), PublicAddress)


@pytest.mark.parametrize(
    "host", ["", "a b", "user@localhost", "localhost:port", "[::1", "local/host", "localhost\\x", "é", "a,b", "::1"]
)
def test_what_is_no_host_is_refused(host: str) -> None:
    assert look(LOCAL, host).status == 400


def test_one_host_is_named_and_the_path_is_a_path() -> None:
    assert look(LOCAL, ["localhost", "evil.example"]).status == 400
    assert look(LOCAL, []).status == 400
    assert look(LOCAL, path="http://evil.example/config").status == 400


SAME = [
    ("localhost:7860", "http://localhost:7860", True),
    ("localhost:7860", "HTTP://LOCALHOST:7860", True),
    ("[::1]:7860", "http://[::1]:7860", True),
    ("localhost:7860", "http://localhost:3000", False),
    ("localhost:7860", "http://127.0.0.1:7860", False),
    ("localhost:7860", "http://evil.example", False),
    ("localhost:7860", "http://localhost:7860.evil.example", False),
    ("localhost:7860", "http://localhost:7860@evil.example", False),
    ("localhost:7860", "null", False),
    ("localhost:7860", "", False),
    ("localhost:7860", "file://", False),
    ("localhost:7860", "chrome-extension://localhost:7860", False),
    ("localhost:7860", "http://[", False),
    ("localhost", "http://localhost", True),
]


@pytest.mark.parametrize(("host", "origin", "same"), SAME)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/queue/join"),
        ("POST", "/gradio_api/call/compare"),
        ("POST", "/gradio_api/mcp/"),
        ("GET", "/gradio_api/mcp/sse"),
        ("GET", "/gradio_api/queue/data"),
        ("OPTIONS", "/gradio_api/upload"),
        ("DELETE", "/"),
    ],
)
def test_origins_on_routes_that_change_something(host: str, origin: str, same: bool, method: str, path: str) -> None:
    found = look(LOCAL, host, method, path, origin=origin)
    assert isinstance(found, PublicAddress) is same
    assert same or (found.status == 403 and "--allow-host" in found.sentence)


@pytest.mark.parametrize(("host", "origin", "same"), SAME)
def test_a_page_may_be_fetched_by_others_but_not_read(host: str, origin: str, same: bool) -> None:
    assert look(LOCAL, host, "GET", "/config", origin=origin).cross_site is not same


@pytest.mark.parametrize(
    ("access", "host", "origin", "same"),
    [
        (SPACE, "me-vl.hf.space", "https://me-vl.hf.space", True),
        (SPACE, "10.1.2.3:7860", "https://me-vl.hf.space", True),  # a proxy that names the server inside
        (SPACE, "me-vl.hf.space", "https://huggingface.co", False),  # the frame around the page sends nothing itself
        (SPACE, "me-vl.hf.space", "https://you-vl.hf.space", False),
        (NAMED, "127.0.0.1:7860", "https://vl.example.org", True),
        (SHARED, "abc.gradio.live", "https://abc.gradio.live", True),
        (EVERYWHERE, "192.168.1.7:7860", "http://192.168.1.7:7860", True),
        (EVERYWHERE, "192.168.1.7:7860", "http://192.168.1.8:7860", False),
        (BELOW, "127.0.0.1:7860", "http://localhost:8080", True),  # the proxy's own port
        (BELOW, "127.0.0.1:7860", "http://evil.example", False),
        (PUBLIC, "127.0.0.1:7860", "https://vl.example.org", True),
    ],
)
def test_origins_elsewhere(access: AllowedHosts, host: str, origin: str, same: bool) -> None:
    found = look(access, host, "POST", "/gradio_api/upload", origin=origin)
    assert isinstance(found, PublicAddress) is same


def test_a_body_has_one_content_type() -> None:
    twice = [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=A"), (b"content-type", b"x/y")]
    with pytest.raises(Refused, match="more than one Content-Type"):
        LOCAL.check("POST", "/gradio_api/upload", twice, "http")
    LOCAL.check("POST", "/gradio_api/upload", twice[:2], "http")


def test_programs_send_no_origin_and_browsers_say_where_they_come_from() -> None:
    assert isinstance(look(LOCAL, method="POST", path="/gradio_api/mcp/"), PublicAddress)
    assert isinstance(
        look(LOCAL, method="POST", path="/gradio_api/upload", sec_fetch_site="same-origin"), PublicAddress
    )
    assert look(LOCAL, method="POST", path="/gradio_api/upload", sec_fetch_site="cross-site").status == 403
    assert isinstance(look(LOCAL, sec_fetch_site="cross-site"), PublicAddress)  # a link to the page


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/deep_link",
        "/gradio_api/proxy=https://x.hf.space/",
        "/gradio_api/file=http://169.254.169.254/",
        "/gradio_api/file= HTTPS://example.org/a.png",
        "/gradio_api/file/http://example.org/a.png",
        "/gradio_api/run-history/connect",
        "/gradio_api/stream/1",
        "/gradio_api/component_server",
        "/gradio_api/process_recording",
        "/gradio_api/vibe-code",
        "/gradio_api/profiling/traces",
        "/gradio_api/whatever-comes-next",
        "/gradio_api//deep_link",
        "/monitoring/summary",
    ],
)
def test_routes_that_the_page_does_not_use_are_not_there(path: str) -> None:
    assert look(LOCAL, path=path).status == 404
    assert look(BELOW, path=f"/vl{path}").status == 404


@pytest.mark.parametrize(
    ("access", "headers", "place", "scheme", "prefix"),
    [
        (LOCAL, {}, "localhost:7860", "http", ""),
        (LOCAL, {"x_forwarded_host": "localhost:8080, inner"}, "localhost:8080", "http", ""),
        (LOCAL, {"x_forwarded_host": "evil.example"}, None, "", ""),
        (LOCAL, {"x_forwarded_host": "a b"}, None, "", ""),
        (NAMED, {"x_forwarded_host": "vl.example.org", "x_forwarded_proto": "https"}, "vl.example.org", "https", ""),
        (LOCAL, {"x_forwarded_proto": "javascript"}, "localhost:7860", "http", ""),
        (LOCAL, {"x_forwarded_prefix": "/vl/"}, "localhost:7860", "http", "/vl"),
        (LOCAL, {"x_forwarded_prefix": "//evil.example"}, "localhost:7860", "http", ""),
        (LOCAL, {"x_forwarded_prefix": "/../a"}, "localhost:7860", "http", ""),
        (LOCAL, {"x_forwarded_prefix": '/a"><script>'}, "localhost:7860", "http", ""),
        (BELOW, {"origin": "http://localhost:8080"}, "localhost:8080", "http", "/vl"),  # a proxy that says nothing
        (NAMED, {"origin": "https://vl.example.org"}, "vl.example.org", "https", ""),
        (LOCAL, {"origin": "https://vl.example.org"}, "localhost:7860", "http", ""),
        (BELOW, {"x_forwarded_prefix": "/other"}, "localhost:7860", "http", "/vl"),
        (PUBLIC, {}, "vl.example.org", "https", "/vl"),
    ],
)
def test_where_the_page_is(
    access: AllowedHosts, headers: dict[str, str], place: str | None, scheme: str, prefix: str
) -> None:
    found = look(access, **headers)
    if place is None:
        assert isinstance(found, Refused)
    else:
        assert (str(found.host), found.scheme, found.prefix) == (place, scheme, prefix)


@pytest.mark.parametrize("value", ["a/b", "a b", "http://", "[::1", "*.", "a:b", "*x"])
def test_names_that_cannot_be_allowed(value: str) -> None:
    with pytest.raises(RequestError, match="not a host name"):
        read_allowed([value])


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("/vl", "/vl"),
        ("vl/", "/vl"),
        ("/a/b-c", "/a/b-c"),
        ("/", ""),
        ("", ""),
        ("https://x.org/vl/", "https://x.org/vl"),
    ],
)
def test_root_paths(value: str, path: str) -> None:
    assert read_root_path(value) == path


@pytest.mark.parametrize("value", ["//evil.example", "/a b", "/a?b", "/..", "ftp://x.org/a", "/a/../b", "/<script>"])
def test_what_is_no_root_path(value: str) -> None:
    with pytest.raises(RequestError, match="not the path of a page"):
        read_root_path(value)


def test_the_environment_names_hosts_and_the_root_path() -> None:
    env = {"VLCOMPARE_ALLOW_HOST": "a.example.org, *.b.example.org", "VLCOMPARE_ROOT_PATH": "/vl/"}
    settings = ServerOptions.from_environment(env)
    assert settings.allow_hosts == ("a.example.org", "*.b.example.org") and settings.root_path == "/vl"
    with pytest.raises(RequestError, match="VLCOMPARE_ROOT_PATH"):
        ServerOptions.from_environment({"VLCOMPARE_ROOT_PATH": "a b"})


def test_places_read_and_write() -> None:
    for text in ("localhost:7860", "[::1]:7860", "a-b.example.org", "10.0.0.1:1"):
        assert str(HostPort.read(text)) == text
