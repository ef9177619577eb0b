"""When a temporary key is renewed, what its policy allows, and what is said when AWS gives none."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr, ValidationError

from media_core.errors import Unavailable
from media_core.store.credentials import S3Key
from media_operator.backends import boto
from media_operator.backends.breaker import RequestRefused
from media_operator.backends.store_keys import Session, iam_policy, session_in, session_policy
from media_operator.settings import StoreAdminSettings

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
ROLE = "arn:aws:iam::111111111111:role/media-objects"
OWN_KEY: dict[str, Any] = {"access_key_id": "AKIA", "secret_access_key": SecretStr("hidden")}


def session(seconds: int) -> Session:
    return Session(S3Key("ASIA", "hidden", "token", NOW + timedelta(seconds=seconds)), NOW, ROLE)


@pytest.mark.parametrize(
    ("seconds", "due", "late"),
    [
        (43200, 21600, 32400),
        (3600, 1800, 2700),
        (1200, 600, 900),
        (900, 300, 600),  # a signed URL of 300 s that is made just before a pod sees the next key has to hold
        (450, 112.5, 281.25),  # as it looks where the operator's clock is ahead: no loop of requests
    ],
)
def test_a_key_is_renewed_at_half_its_life_and_ten_minutes_before_its_end_at_the_latest(
    seconds: int, due: float, late: float
) -> None:
    made = session(seconds)
    assert (made.due - NOW).total_seconds() == due
    assert (made.late - NOW).total_seconds() == late


def test_a_secret_says_again_what_it_was_told() -> None:
    assert session_in(session(3600).as_text()) == session(3600)
    without_end = json.dumps({"Version": 1, "AccessKeyId": "AKIA", "SecretAccessKey": "hidden"})
    for text in (None, "", "{", "[]", without_end, session(3600).as_text().replace("Issued", "Other")):
        assert session_in(text) is None


def test_a_session_shows_no_secret() -> None:
    assert "hidden" not in repr(session(3600))
    assert "token" not in repr(session(3600))


def test_a_session_may_do_what_a_user_may() -> None:
    user, temporary = iam_policy("acme", "media-acme"), session_policy("acme", "media-acme", on_aws=False)
    for policy in (user, temporary):
        allowed = {(action, each["Resource"]) for each in policy["Statement"] for action in each["Action"]}
        assert all(each["Effect"] == "Allow" for each in policy["Statement"])
        assert allowed == {
            *((f"s3:{action}", "arn:aws:s3:::media-acme/tenant/acme/*") for action in ("GetObject", "PutObject")),
            ("s3:DeleteObject", "arn:aws:s3:::media-acme/tenant/acme/*"),
            ("s3:AbortMultipartUpload", "arn:aws:s3:::media-acme/tenant/acme/*"),
            ("s3:ListMultipartUploadParts", "arn:aws:s3:::media-acme/tenant/acme/*"),
            ("s3:ListBucket", "arn:aws:s3:::media-acme"),
            ("s3:ListBucketMultipartUploads", "arn:aws:s3:::media-acme"),
        }


def test_the_longest_policy_is_one_that_sts_takes() -> None:
    policy = session_policy("a" * 40, "b" * 63, on_aws=True)
    assert len(json.dumps(policy, separators=(",", ":"))) < 2048  # AWS's limit
    assert policy["Statement"][-1]["Condition"] == {"StringLike": {"kms:ViaService": "s3.*.amazonaws.com*"}}


@pytest.mark.parametrize(
    ("operation", "code", "words"),
    [
        ("AssumeRole", "AccessDenied", "its trust policy has to name the operator's own role"),
        ("AssumeRole", "ValidationError", "MEDIA_OPERATOR_S3_ROLE_SECONDS is no longer than"),
        ("AssumeRole", "InvalidClientTokenId", "STS does not accept the operator's key"),
        ("AssumeRoleWithWebIdentity", "AccessDenied", "check the annotation eks.amazonaws.com/role-arn"),
    ],
)
def test_a_refusal_of_sts_is_about_all_tenants_and_says_what_to_do(operation: str, code: str, words: str) -> None:
    answer: Any = {"Error": {"Code": code, "Message": "quoted"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    settings = StoreAdminSettings(endpoint="https://s3.example", credentials="role", role_arn=ROLE)
    with pytest.raises(Unavailable) as raised, boto.outages("sts", settings, ROLE):
        raise ClientError(answer, operation)
    assert not isinstance(raised.value, RequestRefused)
    assert words in raised.value.detail
    assert "quoted" not in raised.value.detail


@pytest.mark.parametrize(
    ("dependency", "status", "words"),
    [
        ("iam", 405, "has no IAM API"),
        ("sts", 405, "has no STS API"),
        ("store", 405, "is not S3"),
        ("store", 429, "S3 answered 429"),
    ],
)
def test_an_answer_without_a_code_is_taken_for_what_it_is(
    dependency: Literal["store", "iam", "sts"], status: int, words: str
) -> None:
    answer: Any = {"Error": {"Code": str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}
    settings = StoreAdminSettings(endpoint="https://s3.example")
    with pytest.raises(Unavailable, match=words), boto.outages(dependency, settings):
        raise ClientError(answer, "CreateUser")


def test_the_operator_has_a_whole_key_or_the_one_of_its_pod() -> None:
    where: dict[str, Any] = {"endpoint": "https://s3.example"}
    StoreAdminSettings(**where)
    StoreAdminSettings(**where, credentials="role", role_arn=ROLE)
    StoreAdminSettings(**where, **OWN_KEY, credentials="shared")
    for wrong, words in (
        ({"access_key_id": "AKIA"}, "belong together"),
        ({"secret_access_key": SecretStr("hidden")}, "belong together"),
        ({"credentials": "shared"}, "shared needs MEDIA_OPERATOR_S3_ACCESS_KEY_ID"),
        ({"credentials": "role"}, "role needs MEDIA_OPERATOR_S3_ROLE_ARN"),
        ({"role_arn": "media"}, "role_arn"),
        ({"role_seconds": 899}, "role_seconds"),
    ):
        with pytest.raises(ValidationError, match=words):
            StoreAdminSettings(**where, **wrong)
