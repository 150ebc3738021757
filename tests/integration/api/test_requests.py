"""How every request is judged: the order of the contract, and never a 500 for what a client sends."""

import gzip
import json
import logging
import zlib
from pathlib import Path
from random import Random
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.api.auth import OPERATOR
from gateway.api.server import operations
from gateway.model import Mode, Tenant
from gateway.settings import Http, Limits, Settings
from tests.integration.api.conftest import Api, serve
from tests.integration.api.raw import raw


async def test_a_request_is_judged_in_the_order_of_the_contract(api: Api):
    """Each request below has all the faults that come after the one it is refused for."""
    reader = await api.make_key(permissions=("webhook:read",))
    bad: dict[str, Any] = {"data": b"{" * 100_000, "headers": {"Content-Type": "text/plain", "Idempotency-Key": ""}}
    for path, key, status in (
        ("/nothing", "bad", 404),
        ("/webhooks", "bad", 401),
        ("/webhooks", reader, 403),
        ("/webhooks", api.key, 415),
    ):
        assert (await api.ask("POST", path, key=key, **bad)).status == status
    assert (await api.ask("DELETE", "/webhooks", key="bad")).status == 405
    bad["headers"]["Content-Type"] = "application/json"
    assert (await api.ask("POST", "/webhooks", **bad)).status == 413
    bad["data"] = b"{"
    error = (await api.json("POST", "/webhooks", status=400, **bad))["error"]
    assert error["param"] == "Idempotency-Key"
    bad["headers"]["Idempotency-Key"] = "key"
    error = (await api.json("POST", "/webhooks", status=400, **bad))["error"]
    assert error["code"] == "invalid_json"


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/api/v1",
        "/api/v2/webhooks",
        "/webhooks/",
        "//webhooks",
        "/webhooks/a/b",
        "/%0d%0a",
        "/webhooks%0d%0ax",
        "/%FF%00",
        "/api/v1/health/live",
    ],
)
async def test_an_unknown_path_is_a_404(api: Api, path: str):
    """In the API's own words, with a request id, for those without a key too."""
    response = await raw(
        api, f"GET {path} HTTP/1.1\r\nHost: x\r\ncommet-version: 2026-08-27\r\nConnection: close\r\n\r\n".encode()
    )
    assert response.startswith(b"HTTP/1.1 404 ")
    assert b'{"error":{"type":"not_found_error","code":"not_found",' in response
    assert b"x-request-id: req_" in response.lower()


@pytest.mark.parametrize("id_", ["%0d%0a", "%00", "%FF", "a%2Fb", "x" * 500, "wh_%F0%9F%A4%96", "%ED%A0%80", ".", "%2e%2e"])
async def test_what_can_be_no_id_is_not_found(api: Api, id_: str):
    """Whatever stands in its place."""
    for path, code in (
        (f"/webhooks/{id_}", b"webhook_not_found"),
        (f"/events/{id_}", b"not_found"),
        (f"/deliveries/{id_}", b"not_found"),
    ):
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nx-api-key: {api.key}\r\nConnection: close\r\n\r\n"
        response = await raw(api, head.encode())
        assert response.startswith(b"HTTP/1.1 404 "), response
        assert code in response or id_ in {".", "%2e%2e"}


async def test_an_id_is_shown_only_where_it_is_text(api: Api):
    """As it was sent, and in no notation of a programming language."""
    for id_, message in (
        ("wh_none", "there is no webhook 'wh_none'"),
        ("a%5Cb", r"there is no webhook 'a\b'"),
        ("%00", "there is no webhook with this id"),
        ("%0d%0a", "there is no webhook with this id"),
    ):
        response = await raw(api, f"GET /webhooks/{id_} HTTP/1.0\r\nx-api-key: {api.key}\r\n\r\n".encode())
        assert json.loads(response.partition(b"\r\n\r\n")[2])["error"]["message"] == message


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "TRACE", "PROPFIND"])
async def test_another_method_is_a_405_that_names_the_right_ones(api: Api, method: str):
    """Before anybody is asked who they are; HEAD is as good as GET."""
    response = await api.client.request(method, "/api/v1/webhooks")
    assert response.status == 405
    assert response.headers["Allow"] == "POST, GET, HEAD"
    assert (await response.json())["error"]["code"] == "method_not_allowed"


async def test_head_answers_as_get_without_a_body(api: Api):
    """The same headers, with the length of what GET would send."""
    got, asked = await api.ask("GET", "/webhooks"), await api.ask("HEAD", "/webhooks")
    assert (asked.status, asked.headers["Content-Length"]) == (200, got.headers["Content-Length"])
    assert await asked.read() == b""


@pytest.mark.parametrize(
    "key", ["", "ck_live_unknown", "ck_live_é", "\udcff\udcfe".encode(errors="surrogateescape").decode("latin-1")]
)
async def test_who_is_not_known_is_a_401(api: Api, key: str):
    """No key, an unknown one, or one that is no text."""
    error = (await api.json("GET", "/webhooks", key=key, status=401))["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "unauthorized")


async def test_a_key_that_is_revoked_or_expired_is_a_401(api: Api):
    """From the moment on."""
    short = await api.make_key(days=1)
    await api.json("GET", "/webhooks", key=short)
    api.clock.advance(86_400)
    await api.json("GET", "/webhooks", key=short, status=401)
    keys = (await api.json("GET", "/keys"))["data"]
    assert keys[-1]["prefix"] == api.key[:12]
    await api.json("DELETE", f"/keys/{keys[-1]['id']}")
    await api.json("GET", "/webhooks", status=401)


async def test_permissions_are_exact(api: Api):
    """Write does not imply read, and one resource says nothing of another."""
    writer = await api.make_key(permissions=("webhook:write",))
    await api.json("GET", "/webhooks", key=writer, status=403)
    body = {"url": "https://x.example", "events": ["*"]}
    made = await api.json("POST", "/webhooks", body, key=writer, status=201)
    await api.json("POST", f"/webhooks/{made['id']}/test", key=writer)
    error = (await api.json("POST", "/events", {"event": "a.b", "data": {}}, key=writer, status=403))["error"]
    assert error["type"] == "authentication_error"


@pytest.mark.parametrize("query", ["organizationId=other", "mode=sandbox", "organizationId=acme&mode=sandbox"])
async def test_a_tenants_key_names_no_other_tenant(api: Api, query: str):
    """In the query of any operation, or in a body."""
    named = dict(part.split("=") for part in query.split("&"))
    webhook = {"url": "https://x.example", "events": ["*"]}
    await api.json("GET", f"/webhooks?{query}", status=403)
    await api.json("GET", f"/event-types?{query}", status=403)
    await api.json("POST", f"/events?{query}", {"event": "a.b", "data": {}}, status=403)
    await api.json("POST", "/events", {"event": "a.b", "data": {}, **named}, status=403)
    await api.json("POST", "/webhooks", {**webhook, **named}, status=403)
    await api.json("PATCH", "/webhooks/wh_x", named, status=403)
    await api.json("POST", "/keys", named, status=403)
    await api.json("GET", "/webhooks?organizationId=acme&mode=live")


async def test_a_service_key_names_its_tenant_in_the_query(api: Api):
    """An absent organization is a 400, an absent mode is live."""
    service = await api.make_key(None)
    made = await api.create_webhook()
    assert (await api.json("GET", f"/webhooks/{made['id']}?organizationId=acme", key=service))["id"] == made["id"]
    await api.json("GET", f"/webhooks/{made['id']}?organizationId=acme&mode=sandbox", key=service, status=404)
    for query, params in (
        ("", ["organizationId"]),
        ("mode=x", ["mode", "organizationId"]),
        ("organizationId=", ["organizationId"]),
        ("organizationId=a&mode=x&limit=0", ["mode", "limit"]),
        ("organizationId=a%00", ["organizationId"]),
    ):
        error = (await api.json("GET", f"/webhooks?{query}", key=service, status=400))["error"]
        assert [detail["field"] for detail in error["details"]] == params


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=nonsense", "Application/JSON;x", "application/cloudevents+json", ""],
)
async def test_json_by_any_name_is_read(api: Api, content_type: str):
    """As `application/json`, `…+json` or without a label; a charset says nothing."""
    await api.json("POST", "/events", data=b'{"event":"a.b","data":{}}', headers={"Content-Type": content_type}, status=202)


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "multipart/form-data; boundary=x", "json"],
)
async def test_another_type_is_a_415_that_says_so(api: Api, content_type: str):
    """Before the body is looked at."""
    error = (await api.json("POST", "/events", data=b"{}", headers={"Content-Type": content_type}, status=415))["error"]
    assert error["code"] == "unsupported_media_type"
    assert "application/json" in error["message"]


BROKEN = {
    "not UTF-8": b'{"event":"a.b","data":{"x":"\xff"}}',
    "not UTF-8 in what nobody reads": b'{"event":"a.b","data":{},"other":"\xff"}',
    "a lone surrogate": rb'{"event":"a.b","data":{"x":"\ud800"}}',
    "deep nesting": b'{"event":"a.b","data":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    "deep and open": b'{"event":"a.b","data":' + b'{"x":' * 30_000,
    "cut off": b'{"event":"a.b"',
    "a byte order mark": b'\xef\xbb\xbf{"event":"a.b","data":{}}',
    "another encoding": '{"event":"a.b","data":{}}'.encode("utf-16"),
    "NaN": b'{"event":"a.b","data":{"x":NaN}}',
    "two values": b'{"event":"a.b","data":{}} {}',
    "a control character": b'{"event":"a.b","data":{"x":"\x00"}}',
    "a broken escape": rb'{"event":"a.b","data":{"x":"\q"}}',
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_no_json_is_a_400(api: Api, name: str):
    """Whatever is broken about it, in any operation, and wherever the other fields are."""
    for path in ("/events", "/webhooks") if len(BROKEN[name]) < 65_536 else ("/events",):
        error = (await api.json("POST", path, data=BROKEN[name], status=400))["error"]
        assert error["code"] == "invalid_json"
    wrong_as_well = BROKEN[name].replace(b'"a.b"', b"5", 1)
    assert (await api.ask("POST", "/events", data=wrong_as_well)).status == 400


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"null",
        b"5",
        b'"x"',
        b"1" * 5_000,
        b'{"event":1' + b"0" * 5_000 + b',"data":{}}',
        b'{"event":"a.b","data":1e999}',
        b'{"events":[1e999,null]}',
    ],
)
async def test_json_of_another_form_is_a_400(api: Api, data: bytes):
    """Also numbers that no computer holds."""
    error = (await api.json("POST", "/events", data=data, status=400))["error"]
    assert error["code"] in {"validation_error", "invalid_json"}


@pytest.mark.parametrize(
    "body",
    [
        b'{"url":1e999,"events":9e999,"description":1' + b"0" * 400 + b"}",
        rb'{"url":"https://x.example\u0000","events":["\u0000"],"description":"\u0000"}',
        rb'{"url":"https://x.example/\ud83d\ude00\ud800","events":["*"]}',
        b'{"url":"https://x.example","url":5,"events":["*"]}',
    ],
)
async def test_odd_values_are_a_400(api: Api, body: bytes):
    """Huge numbers, NULs, lone surrogates, and a repeated key, of which the last counts."""
    assert (await api.ask("POST", "/webhooks", data=body)).status == 400


async def test_a_body_over_its_limit_is_a_413(tmp_path: Path):
    """By its announced length, by its real one, and unpacked."""
    async with serve(tmp_path, Settings(http=Http(max_body_bytes=200_000))) as api:
        large = b'{"event":"a.b","data":{"x":"' + b"x" * 100_000 + b'"}}'
        await api.json("POST", "/events", data=large, status=202)
        await api.json("POST", "/webhooks", data=large, status=413)

        async def chunks() -> Any:
            for _ in range(5):
                yield large

        for data, headers in (
            (chunks(), {}),
            (gzip.compress(b" " * 300_000), {"Content-Encoding": "gzip"}),
            (b" " * 200_001, {}),
        ):
            error = (await api.json("POST", "/events", data=data, headers=headers, status=413))["error"]
            assert error["code"] == "payload_too_large"


async def test_a_packed_body_is_read(api: Api):
    """gzip, and deflate in both of its readings."""
    body = gzip.compress(b'{"event":"a.b","data":{}}')
    await api.json("POST", "/events", data=body, headers={"Content-Encoding": "gzip"}, status=202)
    bare = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    for encoding, packed in (
        ("GZIP ", body),
        ("deflate", zlib.compress(b'{"event":"a.b","data":{}}')),
        ("deflate", bare.compress(b'{"event":"a.b","data":{}}') + bare.flush()),
        ("identity", b'{"event":"a.b","data":{}}'),
    ):
        await api.json("POST", "/events", data=packed, headers={"Content-Encoding": encoding}, status=202)


@pytest.mark.parametrize("encoding", ["br", "zstd", "zip", "gzip, gzip", "x-gzip"])
async def test_another_packing_is_a_415(api: Api, encoding: str):
    """In its turn: what nobody may ask is refused for that."""
    headers = {"Content-Encoding": encoding}
    error = (await api.json("POST", "/events", data=b"{}", headers=headers, status=415))["error"]
    assert error["code"] == "unsupported_media_type"
    await api.json("POST", "/nothing", data=b"{}", headers=headers, status=404)
    await api.json("POST", "/events", data=b"{}", headers=headers, key="unknown", status=401)


WHOLE = gzip.compress(b'{"event":"a.b","data":{}}' + b" " * 1_000)


@pytest.mark.parametrize("data", [b"not packed", WHOLE[:-1], WHOLE[:20], WHOLE + b"x", WHOLE + WHOLE])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_what_is_not_packed_as_it_says_is_a_400(api: Api, data: bytes, encoding: str, caplog: pytest.LogCaptureFixture):
    """Cut off, followed by more, or something else; no log tells of a crash."""
    error = (await api.json("POST", "/events", data=data, headers={"Content-Encoding": encoding}, status=400))["error"]
    assert error["code"] == "invalid_json"
    await api.json("GET", "/events", headers={"Content-Encoding": encoding})
    await api.json("POST", "/events", data=data, headers={"Content-Encoding": encoding}, key="unknown", status=401)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_every_answer_has_a_request_id(api: Api):
    """The client's own when it is a sane one, else a new one."""
    first, second = [(await api.ask("GET", "/webhooks")).headers["x-request-id"] for _ in range(2)]
    assert first.startswith("req_")
    assert first != second
    assert (await api.ask("GET", "/webhooks", headers={"x-request-id": "trace-1.a_b"})).headers["x-request-id"] == "trace-1.a_b"
    for odd in ("", "a b", "x" * 129, "é"):
        assert (await api.ask("GET", "/webhooks", headers={"x-request-id": odd})).headers["x-request-id"].startswith("req_")


async def test_answers_are_not_cached_and_not_guessed_at(api: Api):
    """The headers that keep browsers and caches from doing harm, on refusals too."""
    for path in ("/webhooks", "/nothing", "/health/live"):
        headers = (await api.ask("GET", path)).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Content-Type"] == "application/json"


async def test_a_bug_is_a_500_that_gives_nothing_away(api: Api):
    """The connection goes on, and so does the next request."""
    api.publisher.failure = ZeroDivisionError("secret")
    response = await api.ask("POST", "/events", {"event": "a.b", "data": {}})
    assert response.status == 500
    text = await response.text()
    assert '"internal_error"' in text
    assert "secret" not in text
    api.publisher.failure = None
    await api.publish()


async def test_who_asks_too_often_is_told_when_to_come_back(tmp_path: Path):
    """A bucket for each key: 429 with `Retry-After` and `RateLimit-*`, and another key is not slowed."""
    async with serve(tmp_path, Settings(limits=Limits(requests_per_second=2))) as api:
        other = await api.make_key()
        for remaining in ("1", "0"):
            response = await api.ask("GET", "/webhooks")
            assert (response.status, response.headers["RateLimit-Remaining"]) == (200, remaining)
        response = await api.ask("GET", "/webhooks")
        assert response.status == 429
        names = ("Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
        assert [response.headers[name] for name in names] == ["1", "2", "0", "1"]
        assert (await response.json())["error"]["code"] == "rate_limited"
        await api.json("GET", "/webhooks", key=other)
        api.clock.advance(1)
        await api.json("GET", "/webhooks")


async def test_an_operator_needs_no_key(tmp_path: Path):
    """On the operators' socket every request may do everything, naming its tenant as a service key does."""
    async with serve(tmp_path, Settings(), authority=OPERATOR) as api:
        api.key = ""
        await api.json("GET", "/webhooks", status=400)
        body = {"url": "https://x.example", "events": ["*"]}
        headers = {"Idempotency-Key": "k"}
        made = await api.json("POST", "/webhooks?organizationId=acme&mode=sandbox", body, headers=headers, status=201)
        assert made["livemode"] is False
        assert await api.json("POST", "/webhooks?organizationId=acme&mode=sandbox", body, headers=headers, status=201) == made


async def test_health_needs_no_key(api: Api):
    """Alive while it answers, ready while it takes work."""
    for path in ("/health/live", "/health/ready"):
        assert await api.json("GET", path, key="") == {"status": "ok"}
        assert (await api.ask("HEAD", path, key="")).status == 200
        assert (await api.ask("POST", path)).headers["Allow"] == "GET, HEAD"
    api.reasons.append("the store cannot commit")
    assert await api.json("GET", "/health/ready", status=503) == {"status": "unavailable", "reason": "the store cannot commit"}
    await api.json("GET", "/health/live")


async def test_both_prefixes_serve_every_operation(api: Api):
    """The seed's paths and those of the client libraries."""
    for prefix in ("", "/api/v1"):
        for path in ("/webhooks", "/events", "/deliveries", "/keys", "/event-types"):
            await api.json("GET", prefix + path)


async def test_the_shape_follows_header_then_organization_then_seed(api: Api):
    """An unknown version is the current one; a pin holds at once, also for refusals."""
    service = await api.make_key(None)
    other = await api.make_key(Tenant("other", Mode.LIVE))

    async def is_enveloped(version: str | None, key: str | None = None, path: str = "/webhooks") -> bool:
        return "success" in await (await api.ask("GET", path, version=version, key=key)).json()

    assert await is_enveloped(None)
    assert await is_enveloped("2026-05-25")
    assert not await is_enveloped("2026-07-24")
    assert not await is_enveloped("nonsense")
    await api.json("PUT", "/organizations/acme", {"apiVersion": "2026-08-27"}, key=service)
    assert not await is_enveloped(None)
    assert not await is_enveloped(None, path="/webhooks/wh_none")
    assert not await is_enveloped(None, service, "/webhooks?organizationId=acme")
    assert await is_enveloped("2026-07-11")
    assert await is_enveloped(None, other)
    assert await is_enveloped(None, "unknown")
    await api.json("PUT", "/organizations/acme", {"apiVersion": None}, key=service)
    assert await is_enveloped(None)


@pytest.mark.parametrize("expectation", ["100-continue", "the-impossible"])
async def test_any_expectation_is_answered(api: Api, expectation: str):
    """`Expect` never ends a request."""
    body = b'{"event":"a.b","data":{}}'
    head = (
        f"POST /events HTTP/1.1\r\nHost: x\r\nx-api-key: {api.key}\r\nExpect: {expectation}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    assert b"HTTP/1.1 202 " in await raw(api, head.encode() + body)


async def test_broken_chunks_are_a_400(api: Api):
    """A body that ends in nonsense is refused, and keeps nothing."""
    head = f"POST /events HTTP/1.1\r\nHost: x\r\nx-api-key: {api.key}\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = await raw(api, head.encode() + b'5\r\n{"eve\r\nnonsense\r\n')
    assert b" 400 " in response.split(b"\r\n")[0]
    assert (await api.json("GET", "/events"))["data"] == []


ODD = (
    "",
    "%00",
    "%0d%0a",
    "%ED%A0%80",
    "%FF",
    "%",
    "é",
    "1" * 5_000,
    "..",
    "a.b",
    "acme",
    "live",
    "wh_x",
    "*",
    "x&x=",
    "2026-01-01T00:00:00Z",
)


async def test_no_odd_path_query_or_header_is_a_500(api: Api):
    """Nor one that ends the connection without an answer: every operation, with odd values everywhere."""
    chance = Random(7)
    service = await api.make_key(None)
    names = ("limit", "cursor", "organizationId", "mode", "event", "externalId", "state", "since", "webhookId", "eventId")
    for operation in operations(api.parts):
        for _ in range(25):
            path = operation.path.replace("{id}", chance.choice(ODD) or "x")
            query = "&".join(f"{chance.choice(names)}={chance.choice(ODD)}" for _ in range(chance.randrange(4)))
            head = f"{operation.method} {path}?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            head += f"x-api-key: {chance.choice((api.key, service, service, 'é'))}\r\ncommet-version: {chance.choice(ODD)}\r\n"
            if chance.random() < 0.3:
                head += f"Idempotency-Key: {chance.choice(ODD)}\r\n"
            body = chance.choice((b"", b"{}", b"\xff", b'{"url":1e999}', b'{"organizationId":"acme","event":"a.b","data":{}}'))
            head += f"Content-Length: {len(body)}\r\n\r\n"
            response = await raw(api, head.encode(errors="surrogateescape") + body)
            assert response.startswith(b"HTTP/1."), head
            assert response[9:10] in {b"2", b"4"}, (head, body, response)


@pytest.mark.parametrize(
    "line", [b"OPTIONS *", b"GET http://other/webhooks", b"CONNECT x:443", b"get /webhooks", b"GET /webhooks?%zz=%"]
)
async def test_odd_request_lines_are_answered(api: Api, line: bytes):
    """With a refusal, as nobody says who asks."""
    response = await raw(api, line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert response.split(b" ")[1][:1] == b"4", response


HOST = b" HTTP/1.1\r\nHost: x\r\nx-api-key: ck_live_secret\r\n"


@pytest.mark.parametrize("method", [b"FOO", b"GETX", b"get", b"X-Y"])
async def test_a_method_that_nobody_knows_is_a_405(api: Api, method: bytes):
    """As far as the path is known, else a 404; and the connection ends, as nobody knows where the request does."""
    with capture_logs() as logs:
        response = await raw(api, method + b" /api/v1/webhooks?x=y" + HOST + b"\r\n")
    assert response.split(b" ")[1] == b"405", response
    assert b"Allow: POST, GET, HEAD\r\n" in response
    assert b"x-request-id: req_" in response
    assert b'"code":"method_not_allowed"' in response
    assert "ck_live_secret" not in str(logs)
    response = await raw(api, method + b" /nothing" + HOST + b"\r\n")
    assert response.split(b" ")[1] == b"404", response


@pytest.mark.parametrize("data", [b"", b"  ", b"\r\n\t "])
async def test_a_blank_body_is_no_body(api: Api, data: bytes):
    """On every operation: what needs one names what is missing, and the others go on."""
    for path, fields in (("/events", ["event", "data"]), ("/webhooks", ["url", "events"])):
        error = (await api.json("POST", path, data=data, status=400))["error"]
        assert [detail["field"] for detail in error["details"]] == fields
    await api.json("POST", "/keys", data=data, status=201)


async def test_a_tenant_in_a_body_is_a_string(api: Api):
    """Also where a tenant's key has no need to name it; null names nobody."""
    webhook = {"url": "https://x.example", "events": ["*"]}
    bodies: tuple[tuple[str, dict[str, object]], ...] = (
        ("/webhooks", dict(webhook)),
        ("/keys", {}),
        ("/events", {"event": "a.b", "data": {}}),
    )
    for path, body in bodies:
        for field in ("mode", "organizationId"):
            error = (await api.json("POST", path, {**body, field: 5}, status=400))["error"]
            assert error["details"] == [{"field": field, "message": "must be a string"}]
        named = {"mode": None, "organizationId": None}
        await api.json("POST", path, {**body, **named}, status=202 if path == "/events" else 201)
