"""The page of MLflow's UI as `frostline ui` serves it: with a script that closes the assistant at first."""

import asyncio

import pytest

from frostline.tracking.mlflow_app import STORED, Guarded


def served(path, parts, method="GET"):
    """What a browser gets where MLflow's own server sends `parts`, and the request that this server got."""
    requests, sent = [], []

    async def mlflow(scope, receive, send):
        requests.append(dict(scope["headers"]))
        headers = [(b"Content-Length", b"%d" % len(b"".join(parts))), (b"etag", b'"1"'), (b"x-kept", b"yes")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, part in enumerate(parts, start=1):
            await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})

    async def send(message):
        sent.append(message)

    headers = [(b"if-none-match", b'"1"'), (b"accept", b"text/html")]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(Guarded(mlflow, 5000)(scope, None, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return requests[0], dict(sent[0]["headers"]), body


def test_the_page_gets_a_script_that_sets_what_is_not_set():
    request, headers, body = served("/", [b"<html><he", b"ad><title>MLflow</title></head></html>"])
    assert request == {b"accept": b"text/html"}  # a page from the browser's cache would lack the script
    assert headers == {b"content-length": b"%d" % len(body), b"x-kept": b"yes"}
    assert body.startswith(b"<html><head><script>")
    assert body.endswith(b"</style><title>MLflow</title></head></html>")
    assert b"</script><style>[data-assistant-ui] { display: none" in body
    assert all(key.encode() in body for key in STORED)
    assert b"=== null" in body  # a user's own choice stays


@pytest.mark.parametrize("parts", [[b"<p>no head</p>"], [b""]])
def test_a_page_that_looks_otherwise_is_sent_as_it_is(parts):
    assert served("/", parts)[2] == b"".join(parts)


def test_other_files_are_passed_through():
    request, headers, body = served("/static-files/main.js", [b"<head>", b"1"])
    assert request[b"if-none-match"] == b'"1"'
    assert headers[b"etag"] == b'"1"'
    assert body == b"<head>1"
