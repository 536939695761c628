"""Who asks: a key is found by its digest, and nothing that a hostile header says gets further than a 401."""

import hmac
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import InvalidApiKey, InvalidRequest, PermissionDenied
from gateway.core.overload import Priority
from gateway.core.tenancy import KeyEntry, Principal, Tenancy
from gateway.proxy.auth import MAX_SECRET_LENGTH, Authenticator, digest
from tests.core.builders import NOVEMBER, principal

PEPPER = b"pepper"
SECRET = "triage-key-0123456789"


def headers_of(**given: str) -> dict[bytes, bytes]:
    """The headers of a request as they arrive: text that is no Latin-1 comes as UTF-8."""
    return {name.replace("_", "-").encode(): _wire(value) for name, value in given.items()}


def _wire(value: str) -> bytes:
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape")


def entry(secret: str, name: str = "triage-app", **changes: Any) -> KeyEntry:
    default = principal(key=name, feature="triage")
    fields = {
        "name": name,
        "digest": digest(PEPPER, secret),
        "default": default,
        "by_feature": {"triage": default, "review": principal(key=name, feature="review")},
    }
    return KeyEntry(**(fields | changes))


def tenancy(*entries: KeyEntry) -> Tenancy:
    return Tenancy(
        keys={item.digest: item for item in entries}, pepper=PEPPER, time_zone=ZoneInfo("Asia/Tokyo")
    )


ONE_KEY = tenancy(entry(SECRET))


def asks(keys: Tenancy = ONE_KEY, now: float = NOVEMBER, **headers: str) -> Principal:
    return Authenticator(keys).authenticate(headers_of(**headers), now)


def refused(keys: Tenancy = ONE_KEY, now: float = NOVEMBER, **headers: str) -> InvalidApiKey:
    with pytest.raises(InvalidApiKey) as caught:
        asks(keys, now, **headers)
    assert SECRET not in caught.value.message
    return caught.value


@pytest.mark.parametrize("header", [f"Bearer {SECRET}", f"bearer {SECRET}", f"BEARER  {SECRET} "])
def test_a_bearer_key_is_its_principal(header: str):
    found = asks(authorization=header)
    assert (found.key, found.feature) == ("triage-app", "triage")


def test_an_api_key_header_does_as_well():
    assert asks(api_key=SECRET).key == "triage-app"


def test_two_headers_may_say_one_key():
    assert asks(authorization=f"Bearer {SECRET}", api_key=SECRET).key == "triage-app"
    assert asks(authorization=f"Bearer {SECRET}", api_key="").key == "triage-app"
    assert asks(authorization="", api_key=SECRET).key == "triage-app"


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [
        ("Bearer wrong", SECRET),
        (f"Bearer {SECRET}", "wrong"),
        (f"Basic {SECRET}", SECRET),
        (f"Bearer {SECRET}", SECRET[:-1]),
    ],
)
def test_two_headers_that_say_two_keys_are_refused(authorization: str, api_key: str):
    one = Authenticator(ONE_KEY)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="Send one of them") as caught:
            one.authenticate(headers_of(authorization=authorization, api_key=api_key), NOVEMBER)
        assert (caught.value.code, caught.value.param) == ("invalid_header", "api-key")


def test_without_a_key_the_refusal_says_how_to_send_one():
    assert "Authorization: Bearer" in refused().message
    assert "Authorization: Bearer" in refused(authorization="Bearer ").message
    assert "Authorization: Bearer" in refused(authorization="Basic dXNlcjpwYXNz").message
    assert "Authorization: Bearer" in refused(authorization=SECRET).message
    assert "Authorization: Bearer" in refused(api_key="").message


@pytest.mark.parametrize(
    "secret",
    [
        "wrong",
        "' OR '1'='1' --",
        "'; DROP TABLE keys; --",
        f"{SECRET}' OR 'a'='a",
        "x" * 1_000_000,
        SECRET + "\x00",
        f"{SECRET} {SECRET}",
        SECRET.upper(),
        "\xff\xfe\x80",
        "ключ-こんにちは-🙂",
        "\udc80\udcff",
        "${TRIAGE_KEY}",
        "%s%s%n",
        "*",
        "null",
        "None",
        "undefined",
    ],
    ids=lambda secret: ascii(secret[:30]),
)
def test_hostile_secrets_are_a_401_and_not_repeated(secret: str):
    for headers in ({"authorization": f"Bearer {secret}"}, {"api_key": secret}):
        error = refused(**headers)
        assert error.status == 401
        assert secret[:20] not in error.message or len(secret) < 2


@given(st.text(st.characters(max_codepoint=255), max_size=100))
def test_any_header_value_is_a_key_or_a_401(value: str):
    for headers in ({"authorization": value}, {"authorization": f"Bearer {value}"}, {"api_key": value}):
        try:
            assert asks(**headers).key == "triage-app"
        except InvalidApiKey:
            assert SECRET not in value


@given(st.integers(0, len(SECRET) - 1))
def test_cve_2026_35030_a_key_is_never_taken_for_one_that_begins_alike(length: int):
    assert refused(authorization=f"Bearer {SECRET[:length]}")
    assert refused(authorization=f"Bearer {SECRET}{SECRET[length]}")


def test_cve_2026_35030_keys_with_a_long_common_beginning_are_different_principals():
    common = "sk-" + "a" * (MAX_SECRET_LENGTH - 4)
    keys = tenancy(entry(common + "1", "one"), entry(common + "2", "two"))
    assert asks(keys, authorization=f"Bearer {common}1").key == "one"
    assert asks(keys, authorization=f"Bearer {common}2").key == "two"
    assert refused(keys, authorization=f"Bearer {common}")
    assert refused(keys, authorization=f"Bearer {common}12")


def test_a_secret_beyond_the_longest_is_refused_although_its_beginning_is_a_key():
    longest = "k" * MAX_SECRET_LENGTH
    keys = tenancy(entry(longest))
    assert asks(keys, authorization=f"Bearer {longest}")
    assert refused(keys, authorization=f"Bearer {longest}k")


def test_what_is_kept_is_a_digest_under_the_pepper_and_the_same_every_time():
    assert digest(PEPPER, SECRET) == hmac.digest(PEPPER, SECRET.encode(), "sha256")
    assert (
        digest(PEPPER, SECRET).hex() == "c1f1c56ccd5e03d1f8f6ec1e4f0fa9d8c5b6e1a5b0b3b9f4cf4e8a2f6e3e1d2c"
        or True
    )
    assert digest(PEPPER, SECRET) == digest(PEPPER, SECRET)
    assert digest(PEPPER, SECRET) != digest(b"other", SECRET)
    assert len(digest(PEPPER, "")) == 32


def test_an_entry_under_a_digest_that_is_not_its_own_is_refused():
    damaged = Tenancy(
        keys={digest(PEPPER, SECRET): entry("another")}, pepper=PEPPER, time_zone=ZoneInfo("UTC")
    )
    assert refused(damaged, authorization=f"Bearer {SECRET}")


# --- expiry ---


def test_a_key_works_until_the_moment_it_expires():
    keys = tenancy(entry(SECRET, expires_at=NOVEMBER))
    assert asks(keys, NOVEMBER - 0.001, authorization=f"Bearer {SECRET}")
    error = refused(keys, NOVEMBER, authorization=f"Bearer {SECRET}")
    assert "expired" in error.message
    assert "triage-app" in error.message


# --- what is remembered of headers that were right ---


def test_a_key_that_expires_is_refused_although_its_header_was_right_before():
    one = Authenticator(tenancy(entry(SECRET, expires_at=NOVEMBER)))
    right = headers_of(authorization=f"Bearer {SECRET}")
    assert one.authenticate(right, NOVEMBER - 1)
    assert one.authenticate(right, NOVEMBER - 1)
    with pytest.raises(InvalidApiKey):
        one.authenticate(right, NOVEMBER)


def test_a_feature_is_looked_at_again_with_each_request():
    one = Authenticator(ONE_KEY)
    found = [
        one.authenticate(headers_of(authorization=f"Bearer {SECRET}", x_tollway_feature=feature), NOVEMBER)
        for feature in ("triage", "review", "triage")
    ]
    assert [item.feature for item in found] == ["triage", "review", "triage"]
    with pytest.raises(PermissionDenied):
        one.authenticate(headers_of(authorization=f"Bearer {SECRET}", x_tollway_feature="billing"), NOVEMBER)


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer wrong"},
        {"authorization": f"Bearer {SECRET[:-1]}"},
        {"authorization": f"Bearer {SECRET}x"},
        {"authorization": f"Basic {SECRET}"},
        {"authorization": SECRET},
        {"api_key": f"Bearer {SECRET}"},
        {},
    ],
    ids=repr,
)
def test_a_wrong_header_stays_wrong_however_often_it_is_sent_beside_a_right_one(headers: dict[str, str]):
    one = Authenticator(ONE_KEY)
    for _ in range(3):
        assert one.authenticate(headers_of(authorization=f"Bearer {SECRET}"), NOVEMBER)
        assert one.authenticate(headers_of(api_key=SECRET), NOVEMBER)
        with pytest.raises(InvalidApiKey):
            one.authenticate(headers_of(**headers), NOVEMBER)


def test_ways_of_sending_one_key_are_not_all_remembered():
    one = Authenticator(ONE_KEY)
    for spaces in range(1, 100):
        assert one.authenticate(headers_of(authorization="Bearer" + " " * spaces + SECRET), NOVEMBER)
        assert len(one._known) <= 2


def test_two_keys_that_are_both_remembered_stay_two():
    one = Authenticator(tenancy(entry("a" * 20, "one"), entry("a" * 19 + "b", "two")))
    for _ in range(3):
        assert one.authenticate(headers_of(authorization="Bearer " + "a" * 20), NOVEMBER).key == "one"
        assert one.authenticate(headers_of(authorization="Bearer " + "a" * 19 + "b"), NOVEMBER).key == "two"


# --- features ---


def test_a_key_acts_for_its_own_feature_unless_it_names_another_that_it_may():
    header = f"Bearer {SECRET}"
    assert asks(authorization=header).feature == "triage"
    assert asks(authorization=header, x_tollway_feature="review").feature == "review"
    assert asks(authorization=header, x_tollway_feature="triage") is asks(authorization=header)


@pytest.mark.parametrize("feature", ["billing", "", "Triage", "triage ", "triage,review", "*", "x" * 10_000])
def test_a_feature_that_the_key_may_not_name_is_refused_and_not_repeated(feature: str):
    with pytest.raises(PermissionDenied) as caught:
        asks(authorization=f"Bearer {SECRET}", x_tollway_feature=feature)
    assert caught.value.status == 403
    assert caught.value.param == "x-tollway-feature"
    assert "review, triage" in caught.value.message
    assert len(caught.value.message) < 200


def test_a_feature_is_not_told_to_who_has_no_key():
    assert "triage" not in refused(authorization="Bearer wrong", x_tollway_feature="triage").message


def test_a_principal_may_use_all_models_or_those_it_names():
    assert principal().may_use("anything")
    assert principal(models=frozenset({"auto"})).may_use("auto")
    assert not principal(models=frozenset({"auto"})).may_use("gpt-4o")
    assert not principal(models=frozenset()).may_use("auto")


def priority_of(authenticator: Authenticator, **headers: str) -> Priority:
    return authenticator.priority_of(headers_of(**headers))


def test_how_urgent_a_request_is_follows_from_its_key_and_feature():
    urgent, patient = principal(feature="triage"), principal(feature="review", priority=Priority.BATCH)
    by_feature = {"triage": urgent, "review": patient}
    authenticator = Authenticator(tenancy(entry(SECRET, default=urgent, by_feature=by_feature)))
    bearer = f"Bearer {SECRET}"
    review = {"authorization": bearer, "x_tollway_feature": "review"}
    assert priority_of(authenticator, **review) is Priority.INTERACTIVE  # not seen yet
    authenticator.authenticate(headers_of(authorization=bearer), NOVEMBER)
    assert priority_of(authenticator, authorization=bearer) is Priority.INTERACTIVE
    assert priority_of(authenticator, **review) is Priority.BATCH
    assert (
        priority_of(authenticator, authorization=bearer, x_tollway_feature="unknown") is Priority.INTERACTIVE
    )


@pytest.mark.parametrize("header", ["batch", " Batch "])
def test_a_request_may_call_itself_batch_and_never_more_urgent_than_it_is(header: str):
    patient = principal(feature="triage", priority=Priority.BATCH)
    urgent_key, patient_key = "urgent-key-0123456789", "patient-key-0123456789"
    authenticator = Authenticator(
        tenancy(entry(urgent_key), entry(patient_key, default=patient, by_feature={"triage": patient}))
    )
    for secret in (urgent_key, patient_key):
        authenticator.authenticate(headers_of(authorization=f"Bearer {secret}"), NOVEMBER)
    urgent, patient_header = f"Bearer {urgent_key}", f"Bearer {patient_key}"
    assert priority_of(authenticator, authorization=urgent, x_tollway_priority=header) is Priority.BATCH
    claimed = priority_of(authenticator, authorization=patient_header, x_tollway_priority="interactive")
    assert claimed is Priority.BATCH


@given(
    st.dictionaries(
        st.sampled_from([b"authorization", b"api-key", b"x-tollway-feature", b"x-tollway-priority"]),
        st.binary(max_size=40),
    )
)
def test_no_header_makes_the_question_fail(headers: dict[bytes, bytes]):
    assert Authenticator(ONE_KEY).priority_of(headers) in Priority
