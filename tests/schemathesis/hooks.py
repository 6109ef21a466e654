"""What schemathesis must know of the gateway: streams end by their deadline, and two checks more."""

import schemathesis

# What is wrong with a request in itself: a request that fits the schema never has it.
MALFORMED = {"BAD_JSON", "UNKNOWN_FIELD", "UNKNOWN_PARAMETER", "BAD_PATH", "UNSUPPORTED_MEDIA_TYPE", "METHOD_NOT_ALLOWED"}


def streams(case) -> bool:
    content = case.operation.definition.raw["responses"].get("200", {}).get("content", {})
    return "application/x-ndjson" in content


@schemathesis.hook
def before_call(context, case, kwargs):
    # A stream would go on for ever.
    if streams(case):
        case.headers["connect-timeout-ms"] = "150"


@schemathesis.hook
def filter_case(context, case):
    # A server passes over headers that it does not know.
    return "x-schemathesis-unknown-property" not in (case.headers or {})


@schemathesis.deserializer("application/x-ndjson", "text/event-stream")
def text(context, response):
    return response.text


@schemathesis.check
def a_request_that_fits_the_schema_is_never_malformed(context, response, case):
    meta = case.meta
    if meta is None or not meta.generation.mode.is_positive or response.status_code != 400:
        return
    problem = response.json()
    only = [p["name"] for p in case.operation.definition.raw["parameters"] if "x-plexus-only" in p]
    fields = [v["field"] for v in problem.get("violations", [])]
    if problem["reason"] in MALFORMED and not set(fields) <= set(only):
        raise AssertionError(f"{problem['reason']}: {problem['detail']}")


@schemathesis.check
def a_refusal_is_a_problem_with_a_reason(context, response, case):
    if response.status_code < 400:
        return
    kind = response.headers["content-type"]
    assert kind == ["application/problem+json"], kind
    problem = response.json()
    assert problem["status"] == response.status_code and problem["domain"] == "plexus", problem
    assert problem["type"] == "urn:plexus:error:" + problem["reason"], problem
    assert problem["reason"] not in ("REASON_UNSPECIFIED", "INTERNAL"), problem
