"""Limits that servers state when they refuse."""

import pytest

from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.core.estimate import Estimate
from gateway.core.stated_limits import KEPT_SECONDS, StatedLimits, stated_in
from gateway.core.upstream_error import UpstreamError
from tests.core.builders import chat, parsed

ONE_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def refusal(message: str, kind: FailureKind = FailureKind.REFUSED) -> UpstreamFailure:
    return UpstreamFailure(kind, "x", status=400, error=UpstreamError(status=400, message=message, said=True))


@pytest.mark.parametrize(
    ("message", "images", "context"),
    [
        ("At most 5 image(s) may be provided in one prompt.", 5, None),
        ("at most 0 images", 0, None),
        ("This model's maximum context length is 32768 tokens. However, you requested 9.", None, 32768),
        ("The decoder prompt (length 5951) is longer than the maximum model length of 4096.", None, 4096),
        ("prompt is too long: 210000 tokens > 200000 maximum", None, 200_000),
    ],
)
def test_what_is_stated_is_remembered(message: str, images: int | None, context: int | None) -> None:
    stated = stated_in(refusal(message), now=5.0)
    assert stated is not None
    assert (stated.images, stated.context_tokens, stated.until) == (images, context, 5.0 + KEPT_SECONDS)


@pytest.mark.parametrize(
    "failure",
    [
        refusal("The image is too large."),
        refusal("At most 5 audio(s) may be provided in one prompt."),
        refusal("At most 5 image(s)", kind=FailureKind.STATUS),
        UpstreamFailure(FailureKind.REFUSED, "x"),
    ],
)
def test_where_nothing_is_stated_nothing_is_remembered(failure: UpstreamFailure) -> None:
    assert stated_in(failure, now=5.0) is None


@pytest.mark.parametrize(("images", "prompt", "excluded"), [(5, 10, False), (6, 10, True), (0, 300, True)])
def test_what_exceeds_them_is_excluded_for_a_while(images: int, prompt: int, excluded: bool) -> None:
    limits = StatedLimits(refusal=refusal("x"), until=10.0, images=5, context_tokens=100)
    content = [{"type": "text", "text": "?"}, *[ONE_IMAGE] * images]
    call = parsed(chat(messages=[{"role": "user", "content": content}]))
    estimate = Estimate(prompt, prompt, 1)
    assert limits.exclude(call, estimate, now=10.0) is excluded
    assert not limits.exclude(call, estimate, now=10.1)


def test_an_estimate_just_above_the_limit_may_be_wrong() -> None:
    limits = StatedLimits(refusal=refusal("x"), until=10.0, context_tokens=100)
    assert not limits.exclude(parsed(chat()), Estimate(150, 150, 1), now=0.0)
